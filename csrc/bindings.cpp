// The only file that knows Python. Each section binds one header.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

namespace py = pybind11;

PYBIND11_MODULE(_core, m) { m.doc() = "The compiled core of gdui. Use it through gdui.labeling."; }
