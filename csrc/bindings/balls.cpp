#include "bindings.hpp"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "../balls.hpp"
#include "../similarity.hpp"

namespace py = pybind11;

namespace {

using Rows = py::array_t<float, py::array::c_style>;
using Squares = py::array_t<double, py::array::c_style>;

void require(bool holds, const char *message) {
  if (!holds)
    throw std::invalid_argument(message);
}

Squares radii(const Rows &rows, std::int64_t k, int threads, const std::string &instructions) {
  require(rows.ndim() == 2 && rows.shape(1) % gdui::kLanes == 0, "rows must have 2 axes and a padded width");
  const std::int64_t n = rows.shape(0), width = rows.shape(1);
  require(k >= 1 && k <= n && n <= INT32_MAX, "k must be between 1 and the number of rows, which is below 2^31");
  Squares squares(n);
  const gdui::Instructions most = bindings::instructions_named(instructions);
  const float *from = rows.data();
  double *to = squares.mutable_data();
  py::gil_scoped_release release;
  gdui::radii(from, n, width, k, threads, most, to);
  return squares;
}

py::array_t<bool> inside(const Rows &points, const Rows &rows, const Squares &squares, int threads,
                         const std::string &instructions) {
  require(points.ndim() == 2 && rows.ndim() == 2 && points.shape(1) == rows.shape(1) &&
              rows.shape(1) % gdui::kLanes == 0,
          "points and rows must have 2 axes and the same padded width");
  const std::int64_t n_points = points.shape(0), n = rows.shape(0), width = rows.shape(1);
  require(squares.ndim() == 1 && squares.shape(0) == n && n <= INT32_MAX, "squares must be one for each row");
  const gdui::Instructions most = bindings::instructions_named(instructions);
  py::array_t<bool> out(n_points);
  const float *looking = points.data(), *from = rows.data();
  const double *reach = squares.data();
  auto *to = reinterpret_cast<std::uint8_t *>(out.mutable_data());
  py::gil_scoped_release release;
  gdui::inside(looking, n_points, from, reach, n, width, threads, most, to);
  return out;
}

} // namespace

void bindings::bind_balls(py::module_ &m) {
  m.def("radii", &radii, py::arg("rows").noconvert(), py::kw_only(), py::arg("k"), py::arg("threads"),
        py::arg("instructions") = "amx");
  m.def("inside", &inside, py::arg("points").noconvert(), py::arg("rows").noconvert(), py::arg("squares").noconvert(),
        py::kw_only(), py::arg("threads"), py::arg("instructions") = "amx");
}
