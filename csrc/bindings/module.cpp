#include "bindings.hpp"

PYBIND11_MODULE(_core, m) {
  m.doc() = "The compiled core of gdui. Use it through gdui.labeling and gdui.ops.";
  gdui::bind_matching(m);
  gdui::bind_neighbors(m);
}
