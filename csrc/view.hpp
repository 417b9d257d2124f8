// Arrays of any number type and any strides, read in place or block by block: nothing is copied as a whole.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>

namespace gdui {

enum class Kind : std::uint8_t { f16, f32, f64, i8, i16, i32, i64, u8, u16, u32, u64 };

struct Vector {
  const char *data;
  std::int64_t size, stride; // the stride in bytes
  Kind kind;
};

struct Matrix {
  const char *data;
  std::int64_t rows, cols, row_stride, col_stride;
  Kind kind;

  Vector row(std::int64_t k) const { return {data + k * row_stride, cols, col_stride, kind}; }
};

// A half as its bits; float16 has no type of its own in C++17.
struct Half {
  std::uint16_t bits;

  operator float() const {
    const std::uint32_t magnitude = bits & 0x7fffu;
    std::uint32_t word = magnitude << 13;
    float value;
    std::memcpy(&value, &word, sizeof value);
    value *= 0x1p112f; // moves the exponent's bias, and makes subnormal halves normal
    std::memcpy(&word, &value, sizeof word);
    word |= (magnitude >= 0x7c00u ? 0x7f800000u : 0u) | (bits & 0x8000u) << 16;
    std::memcpy(&value, &word, sizeof value);
    return value;
  }
};

template <class T> T read(const char *at) {
  T value; // memcpy: NumPy's arrays need not be aligned
  std::memcpy(&value, at, sizeof value);
  return value;
}

// Calls use(zero) with a zero of the type that `kind` stands for.
template <class Use> auto with_type(Kind kind, const Use &use) {
  switch (kind) {
  case Kind::f16:
    return use(Half{});
  case Kind::f32:
    return use(float{});
  case Kind::f64:
    return use(double{});
  case Kind::i8:
    return use(std::int8_t{});
  case Kind::i16:
    return use(std::int16_t{});
  case Kind::i32:
    return use(std::int32_t{});
  case Kind::i64:
    return use(std::int64_t{});
  case Kind::u8:
    return use(std::uint8_t{});
  case Kind::u16:
    return use(std::uint16_t{});
  case Kind::u32:
    return use(std::uint32_t{});
  case Kind::u64:
    return use(std::uint64_t{});
  }
  throw std::logic_error("unknown kind of number");
}

template <class T> constexpr bool is_kind(Kind) { return false; }
template <> constexpr bool is_kind<float>(Kind kind) { return kind == Kind::f32; }
template <> constexpr bool is_kind<double>(Kind kind) { return kind == Kind::f64; }
template <> constexpr bool is_kind<std::int32_t>(Kind kind) { return kind == Kind::i32; }

// The entries [begin, end) as T: where they lie if they already are an array of T, else converted into `buffer`.
template <class T> const T *block(const Vector &from, std::int64_t begin, std::int64_t end, T *buffer) {
  const char *start = from.data + begin * from.stride;
  if (is_kind<T>(from.kind) && from.stride == sizeof(T) && reinterpret_cast<std::uintptr_t>(start) % alignof(T) == 0)
    return reinterpret_cast<const T *>(start);
  with_type(from.kind, [&](auto zero) {
    using From = decltype(zero);
    if (from.stride == sizeof(From)) // a constant step, so that the compiler can vectorise
      for (std::int64_t i = 0; i < end - begin; ++i)
        buffer[i] = static_cast<T>(read<From>(start + i * static_cast<std::int64_t>(sizeof(From))));
    else
      for (std::int64_t i = 0; i < end - begin; ++i)
        buffer[i] = static_cast<T>(read<From>(start + i * from.stride));
  });
  return buffer;
}

inline double entry(const Matrix &from, std::int64_t k, std::int64_t c) {
  const char *at = from.data + k * from.row_stride + c * from.col_stride;
  return with_type(from.kind, [at](auto zero) { return static_cast<double>(read<decltype(zero)>(at)); });
}

// How many entries the loops over samples convert and check at a time; small enough to stay in the first cache.
constexpr std::int64_t block_size = 2048;

// Whole numbers in [0, upper). What is out of range is found as it is read.
struct Labels {
  const char *name;
  Vector values;
  std::int64_t upper;

  const std::int32_t *read_block(std::int64_t begin, std::int64_t end, std::int32_t *buffer) const;
};

// Finite numbers. What isn't finite is found as it is read.
struct Scores {
  const char *name;
  Vector values;

  // float where that holds them all, else double
  bool fits_float() const { return values.kind == Kind::f16 || values.kind == Kind::f32; }
  template <class T> const T *read_block(std::int64_t begin, std::int64_t end, T *buffer) const;
};

struct Range {
  std::int64_t low, high;
};

// The lowest and the highest entry; {0, -1} for an empty vector. Entries beyond int64 count as its highest.
Range range_of(const Vector &values, int threads);

} // namespace gdui
