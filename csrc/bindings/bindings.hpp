// Each file of this folder puts one part of the core before Python; no other folder knows pybind11.
#pragma once

#include <algorithm>
#include <array>
#include <stdexcept>
#include <string>

#include <pybind11/pybind11.h>

#include "../processor.hpp"

namespace bindings {

void bind_balls(pybind11::module_ &m);
void bind_diffusion(pybind11::module_ &m);
void bind_losses(pybind11::module_ &m);
void bind_matching(pybind11::module_ &m);
void bind_means(pybind11::module_ &m);
void bind_neighbors(pybind11::module_ &m);
void bind_rows(pybind11::module_ &m);

// How far up the ladder of instruction sets to go; tests go up step by step.
inline gdui::Instructions instructions_named(const std::string &name) {
  const std::array<const char *, 4> ladder{"portable", "avx2", "avx512", "amx"};
  const auto found = std::find(ladder.begin(), ladder.end(), name);
  if (found == ladder.end())
    throw std::invalid_argument("instructions must be one of 'portable', 'avx2', 'avx512', 'amx'");
  return static_cast<gdui::Instructions>(found - ladder.begin());
}

} // namespace bindings
