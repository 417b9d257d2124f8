#include "bindings.hpp"

PYBIND11_MODULE(_core, m) {
  m.doc() = "The compiled core of gdui. Use it through gdui.labeling and gdui.ops.";
  bindings::bind_balls(m);
  bindings::bind_diffusion(m);
  bindings::bind_losses(m);
  bindings::bind_matching(m);
  bindings::bind_means(m);
  bindings::bind_neighbors(m);
  bindings::bind_rows(m);
}
