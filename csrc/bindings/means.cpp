#include "bindings.hpp"

#include <pybind11/numpy.h>

#include <algorithm>
#include <string>

#include "../means.hpp"
#include "../similarity.hpp"
#include "../walk.hpp"

namespace py = pybind11;

namespace {

template <class T> using Dense = py::array_t<T, py::array::c_style>;

void require(bool holds, const char *message) {
  if (!holds)
    throw std::invalid_argument(message);
}

Dense<std::int64_t> first_means(const Dense<float> &rows, const Dense<double> &draws, int threads,
                                const std::string &instructions) {
  require(rows.ndim() == 2 && rows.shape(1) % gdui::kLanes == 0, "rows must have 2 axes and a padded width");
  require(draws.ndim() == 1 && draws.shape(0) <= rows.shape(0), "draws must be at most as many as rows");
  const gdui::Instructions most = bindings::instructions_named(instructions);
  Dense<std::int64_t> chosen(draws.shape(0));
  const float *from = rows.data();
  const double *drawn = draws.data();
  std::int64_t *to = chosen.mutable_data();
  {
    py::gil_scoped_release release;
    gdui::first_means(from, rows.shape(0), rows.shape(1), draws.shape(0), drawn, threads, most, to);
  }
  return chosen;
}

Dense<double> cluster_sums(const Dense<float> &rows, const Dense<std::int32_t> &cluster, std::int64_t k, int threads) {
  require(rows.ndim() == 2 && cluster.ndim() == 1 && cluster.shape(0) == rows.shape(0),
          "cluster must have a number for each row");
  Dense<double> sums({k, static_cast<std::int64_t>(rows.shape(1))});
  const float *from = rows.data();
  const std::int32_t *in = cluster.data();
  double *to = sums.mutable_data();
  {
    py::gil_scoped_release release;
    gdui::cluster_sums(from, in, rows.shape(0), rows.shape(1), k, threads, to);
  }
  return sums;
}

void walk(const Dense<std::int64_t> &start, const Dense<std::int32_t> &column, const Dense<float> &weight,
          const Dense<float> &from, const Dense<float> &own, float move, float keep, Dense<float> &to, int threads) {
  require(from.ndim() == 2 && start.ndim() == 1 && start.shape(0) == from.shape(0) + 1, "start must fit from");
  require(own.size() == from.size() && to.size() == from.size(), "from, own and to must have the same shape");
  const gdui::Graph graph{start.data(), column.data(), weight.data(), from.shape(0)};
  const std::int64_t entries = column.size(), weights = weight.size(), columns = from.shape(1);
  const float *before = from.data(), *mine = own.data();
  float *after = to.mutable_data();
  require(after != before, "to must not be from");
  py::gil_scoped_release release; // before every entry is looked at: threads walk side by side
  require(weights == entries && graph.start[0] == 0 && graph.start[graph.rows] == entries &&
              std::is_sorted(graph.start, graph.start + graph.rows + 1),
          "start must divide the entries among the rows");
  require(
      std::all_of(graph.column, graph.column + entries, [&graph](std::int32_t c) { return c >= 0 && c < graph.rows; }),
      "column must hold numbers of rows");
  gdui::walk(graph, before, mine, move, keep, columns, threads, after);
}

} // namespace

void bindings::bind_means(py::module_ &m) {
  m.def("first_means", &first_means, py::arg("rows").noconvert(), py::arg("draws").noconvert(), py::arg("threads"),
        py::arg("instructions") = "amx");
  m.def("cluster_sums", &cluster_sums, py::arg("rows").noconvert(), py::arg("cluster").noconvert(), py::arg("k"),
        py::arg("threads"));
  m.def("walk", &walk, py::arg("start").noconvert(), py::arg("column").noconvert(), py::arg("weight").noconvert(),
        py::arg("field").noconvert(), py::arg("own").noconvert(), py::arg("move"), py::arg("keep"),
        py::arg("to").noconvert(), py::arg("threads"));
}
