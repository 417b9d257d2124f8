#include "bindings.hpp"

#include <pybind11/stl.h>

#include <optional>
#include <vector>

#include "../project.hpp"
#include "../rows.hpp"
#include "views.hpp"

namespace py = pybind11;

namespace {

template <class T> using Dense = py::array_t<T, py::array::c_style>;

void require(bool holds, const char *message) {
  if (!holds)
    throw std::invalid_argument(message);
}

std::int64_t first_not_finite(const py::array &rows, int threads) {
  require(rows.ndim() == 2, "rows must have 2 axes");
  const gdui::Matrix from = bindings::matrix(rows);
  py::gil_scoped_release release;
  return gdui::first_not_finite(from, threads);
}

std::int64_t centred_rows(const py::array &rows, const Dense<float> &center, Dense<float> &unit,
                          std::optional<Dense<float>> &plain, int threads) {
  require(rows.ndim() == 2 && center.ndim() == 1 && unit.ndim() == 2, "rows and unit must have 2 axes, center 1");
  require(center.shape(0) == rows.shape(1) && unit.shape(0) == rows.shape(0) && unit.shape(1) == rows.shape(1),
          "center must have a number for each column of rows, and unit their shape");
  require(!plain || plain->size() == unit.size(), "plain must have the shape of unit");
  const gdui::Matrix from = bindings::matrix(rows);
  const float *middle = center.data();
  float *to = unit.mutable_data(), *own = plain ? plain->mutable_data() : nullptr;
  py::gil_scoped_release release;
  return gdui::centred_rows(from, middle, to, own, threads);
}

// Each pair is what vectors are multiplied by, and where their products go.
using Sides = std::vector<std::pair<Dense<float>, Dense<float>>>;

std::vector<gdui::Columns> columns_of(Sides &sides, std::int64_t rows, std::int64_t cols) {
  std::vector<gdui::Columns> out;
  for (auto &[columns, products] : sides) {
    require(columns.ndim() == 2 && columns.shape(1) == cols, "columns must be as long as the rows");
    require(products.ndim() == 2 && products.shape(0) == rows && products.shape(1) == columns.shape(0),
            "products must have a row for each row, and a column for each of the columns");
    out.push_back({columns.data(), columns.shape(0), products.mutable_data()});
  }
  return out;
}

std::int64_t project(const py::array &rows, const Dense<float> &center, Sides centred, Sides plain, int threads) {
  require(rows.ndim() == 2 && center.ndim() == 1 && center.shape(0) == rows.shape(1),
          "rows must have 2 axes, and center a number for each of their columns");
  const gdui::Matrix from = bindings::matrix(rows);
  const auto less = columns_of(centred, from.rows, from.cols), own = columns_of(plain, from.rows, from.cols);
  const float *middle = center.data();
  py::gil_scoped_release release;
  return gdui::project(from, middle, less, own, threads);
}

void choose(const Dense<float> &scores, float scale, Dense<std::int32_t> &first, Dense<std::int32_t> &second,
            Dense<float> &most, Dense<float> &share, Dense<float> &lead, std::optional<Dense<float>> &softmax,
            int threads) {
  require(scores.ndim() == 2 && scores.shape(1) > 0, "scores must have 2 axes and a column");
  const std::int64_t n = scores.shape(0), columns = scores.shape(1);
  require(first.size() == n && second.size() == n && most.size() == n && share.size() == n && lead.size() == n,
          "what is chosen must have a number for each row of scores");
  require(!softmax || softmax->size() == scores.size(), "softmax must have the shape of scores");
  const float *from = scores.data();
  const gdui::Choices out{first.mutable_data(), second.mutable_data(), most.mutable_data(), share.mutable_data(),
                          lead.mutable_data()};
  float *whole = softmax ? softmax->mutable_data() : nullptr;
  py::gil_scoped_release release;
  gdui::choose(from, n, columns, scale, out, whole, threads);
}

} // namespace

void bindings::bind_rows(py::module_ &m) {
  m.def("first_not_finite", &first_not_finite, py::arg("rows"), py::arg("threads"));
  m.def("centred_rows", &centred_rows, py::arg("rows"), py::arg("center").noconvert(), py::arg("unit").noconvert(),
        py::arg("plain").noconvert(), py::arg("threads"));
  m.def("project", &project, py::arg("rows"), py::arg("center").noconvert(), py::arg("centred").noconvert(),
        py::arg("plain").noconvert(), py::arg("threads"));
  m.def("choose", &choose, py::arg("scores").noconvert(), py::arg("scale"), py::arg("first").noconvert(),
        py::arg("second").noconvert(), py::arg("most").noconvert(), py::arg("share").noconvert(),
        py::arg("lead").noconvert(), py::arg("softmax").noconvert(), py::arg("threads"));
}
