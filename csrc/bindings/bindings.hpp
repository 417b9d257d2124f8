// Each file of this folder puts one part of the core before Python; no other folder knows pybind11.
#pragma once

#include <pybind11/pybind11.h>

namespace bindings {

void bind_balls(pybind11::module_ &m);
void bind_diffusion(pybind11::module_ &m);
void bind_losses(pybind11::module_ &m);
void bind_matching(pybind11::module_ &m);
void bind_neighbors(pybind11::module_ &m);

} // namespace bindings
