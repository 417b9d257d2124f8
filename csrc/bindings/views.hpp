// NumPy's arrays as the core reads them: where they lie, whatever their type and strides.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "../view.hpp"

namespace bindings {

inline gdui::Kind kind_of(const pybind11::array &array) {
  const auto size = array.dtype().itemsize();
  switch (array.dtype().kind()) {
  case 'f':
    return size == 2 ? gdui::Kind::f16 : size == 4 ? gdui::Kind::f32 : gdui::Kind::f64;
  case 'i':
    return size == 1 ? gdui::Kind::i8 : size == 2 ? gdui::Kind::i16 : size == 4 ? gdui::Kind::i32 : gdui::Kind::i64;
  case 'u':
    return size == 1 ? gdui::Kind::u8 : size == 2 ? gdui::Kind::u16 : size == 4 ? gdui::Kind::u32 : gdui::Kind::u64;
  default:
    throw pybind11::type_error("an array of numbers is wanted");
  }
}

inline const char *bytes(const pybind11::array &array) { return static_cast<const char *>(array.data()); }

inline gdui::Vector vector(const pybind11::array &array) {
  return {bytes(array), array.shape(0), array.strides(0), kind_of(array)};
}

inline gdui::Matrix matrix(const pybind11::array &array) {
  return {bytes(array), array.shape(0), array.shape(1), array.strides(0), array.strides(1), kind_of(array)};
}

} // namespace bindings
