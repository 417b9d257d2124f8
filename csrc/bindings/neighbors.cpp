#include "bindings.hpp"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <string>

#include "../nearest.hpp"
#include "../similarity.hpp"

namespace py = pybind11;

namespace {

using UnitRows = py::array_t<float, py::array::c_style>;
using Found = py::array_t<std::int32_t, py::array::c_style>;

void require(bool holds, const char *message) {
  if (!holds)
    throw std::invalid_argument(message);
}

template <class Real>
void unit_rows(const py::array_t<Real, py::array::c_style> &block, std::int64_t first, UnitRows &unit) {
  const std::int64_t n = block.shape(0), d = block.shape(1);
  require(first >= 0 && first + n <= unit.shape(0) && unit.shape(1) == gdui::padded(d), "block does not fit into unit");
  float *out = unit.mutable_data() + first * unit.shape(1);
  const Real *from = block.data();
  py::gil_scoped_release release;
  gdui::unit_rows(from, n, d, first, out);
}

void require_unit_rows(const UnitRows &rows, const UnitRows &queries) {
  require(rows.ndim() == 2 && queries.ndim() == 2 && rows.shape(1) == queries.shape(1) &&
              rows.shape(1) % gdui::kLanes == 0,
          "rows and queries must have 2 axes and the same padded width");
}

py::tuple nearest(const UnitRows &rows, const UnitRows &queries, std::int64_t k, bool leave_self_out, int threads,
                  const std::string &instructions) {
  require_unit_rows(rows, queries);
  const std::int64_t n = rows.shape(0), n_queries = queries.shape(0);
  require(!leave_self_out || rows.is(queries), "only rows that look among themselves can leave themselves out");
  require(k >= 1 && k <= n - leave_self_out, "k must be between 1 and the number of rows that can be neighbours");
  require(n <= INT32_MAX, "there must be fewer than 2^31 rows");
  const gdui::Instructions most = bindings::instructions_named(instructions);
  Found indices({n_queries, k});
  UnitRows similarities({n_queries, k});
  {
    const float *from = rows.data(), *looking = queries.data();
    std::int32_t *found = indices.mutable_data();
    float *near = similarities.mutable_data();
    py::gil_scoped_release release;
    gdui::nearest(from, n, looking, n_queries, rows.shape(1), k, leave_self_out, threads, most, found, near);
  }
  return py::make_tuple(indices, similarities);
}

// Orders `indices` in place, and returns their similarities.
UnitRows rank(const UnitRows &rows, const UnitRows &queries, Found &indices, int threads) {
  require_unit_rows(rows, queries);
  require(indices.ndim() == 2 && indices.shape(0) == queries.shape(0), "indices must have one row for each query");
  const std::int64_t n = rows.shape(0), k = indices.shape(1);
  std::int32_t *found = indices.mutable_data();
  require(std::all_of(found, found + indices.size(), [n](std::int32_t i) { return i >= 0 && i < n; }),
          "indices must be numbers of rows");
  UnitRows similarities({indices.shape(0), k});
  float *near = similarities.mutable_data();
  const float *from = rows.data(), *looking = queries.data();
  py::gil_scoped_release release;
  gdui::rank(from, looking, queries.shape(0), rows.shape(1), k, threads, found, near);
  return similarities;
}

} // namespace

void bindings::bind_neighbors(py::module_ &m) {
  m.def("unit_rows", &unit_rows<float>, py::arg("block"), py::arg("first"), py::arg("unit").noconvert());
  m.def("unit_rows", &unit_rows<double>, py::arg("block"), py::arg("first"), py::arg("unit").noconvert());
  m.def("nearest", &nearest, py::arg("rows").noconvert(), py::arg("queries").noconvert(), py::kw_only(), py::arg("k"),
        py::arg("leave_self_out"), py::arg("threads"), py::arg("instructions") = "amx");
  m.def("rank", &rank, py::arg("rows").noconvert(), py::arg("queries").noconvert(), py::arg("indices").noconvert(),
        py::kw_only(), py::arg("threads"));
}
