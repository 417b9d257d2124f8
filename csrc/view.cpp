#include "view.hpp"

#include "multiversion.hpp"
#include "parallel.hpp"
#include "scan.hpp"

#include <limits>
#include <mutex>

namespace gdui {
namespace {

// One vectorisable sweep: converts, and says whether any entry is outside [0, upper).
template <class From>
GDUI_INLINE bool convert(const char *from, std::int64_t stride, std::int64_t n, std::uint64_t upper,
                         std::int32_t *out) {
  std::uint32_t bad = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const From value = read<From>(from + i * stride);
    bad |= static_cast<std::uint64_t>(value) >= upper; // a negative one wraps round to a huge one
    out[i] = static_cast<std::int32_t>(value);
  }
  return bad != 0;
}

template <class From>
GDUI_INLINE bool convert_any(const char *from, std::int64_t stride, std::int64_t n, std::uint64_t upper,
                             std::int32_t *out) {
  if (stride == sizeof(From))
    return convert<From>(from, sizeof(From), n, upper, out);
  return convert<From>(from, stride, n, upper, out);
}

GDUI_MULTIVERSION bool convert_labels(const char *from, std::int64_t stride, Kind kind, std::int64_t n,
                                      std::uint64_t upper, std::int32_t *out) {
  switch (kind) {
  case Kind::i8:
    return convert_any<std::int8_t>(from, stride, n, upper, out);
  case Kind::i16:
    return convert_any<std::int16_t>(from, stride, n, upper, out);
  case Kind::i32:
    return convert_any<std::int32_t>(from, stride, n, upper, out);
  case Kind::i64:
    return convert_any<std::int64_t>(from, stride, n, upper, out);
  case Kind::u8:
    return convert_any<std::uint8_t>(from, stride, n, upper, out);
  case Kind::u16:
    return convert_any<std::uint16_t>(from, stride, n, upper, out);
  case Kind::u32:
    return convert_any<std::uint32_t>(from, stride, n, upper, out);
  case Kind::u64:
    return convert_any<std::uint64_t>(from, stride, n, upper, out);
  default:
    throw std::logic_error("labels must be whole numbers");
  }
}

GDUI_MULTIVERSION bool outside(const std::int32_t *x, std::int64_t n, std::uint32_t upper) {
  std::uint32_t bad = 0;
  for (std::int64_t i = 0; i < n; ++i)
    bad |= static_cast<std::uint32_t>(x[i]) >= upper;
  return bad != 0;
}

std::string text(std::int64_t value) { return std::to_string(value); }

// Says which is the first label out of range, whichever thread met one first.
[[noreturn]] void refuse(const Labels &labels) {
  with_type(labels.values.kind, [&](auto zero) {
    using From = decltype(zero);
    for (std::int64_t i = 0; i < labels.values.size; ++i) {
      const From value = read<From>(labels.values.data + i * labels.values.stride);
      const std::string name = labels.name;
      if (static_cast<double>(value) < 0)
        throw std::invalid_argument(name + " must be at least 0, but holds " + text(static_cast<std::int64_t>(value)) +
                                    " at " + text(i));
      if (static_cast<std::uint64_t>(value) >= static_cast<std::uint64_t>(labels.upper))
        throw std::invalid_argument(name + " must be below " + text(labels.upper) + ", but holds " +
                                    std::to_string(static_cast<std::uint64_t>(value)) + " at " + text(i));
    }
  });
  throw std::logic_error("every label is in range");
}

} // namespace

const std::int32_t *Labels::read_block(std::int64_t begin, std::int64_t end, std::int32_t *buffer) const {
  const char *start = values.data + begin * values.stride;
  if (is_kind<std::int32_t>(values.kind) && values.stride == 4 && reinterpret_cast<std::uintptr_t>(start) % 4 == 0) {
    const auto *direct = reinterpret_cast<const std::int32_t *>(start);
    if (outside(direct, end - begin, static_cast<std::uint32_t>(upper)))
      refuse(*this);
    return direct;
  }
  if (convert_labels(start, values.stride, values.kind, end - begin, static_cast<std::uint64_t>(upper), buffer))
    refuse(*this);
  return buffer;
}

template <class T> const T *Scores::read_block(std::int64_t begin, std::int64_t end, T *buffer) const {
  const T *out = block(values, begin, end, buffer);
  if (!finite(out, end - begin))
    throw std::invalid_argument(std::string(name) + " holds NaN or infinity; only finite numbers can be ranked");
  return out;
}
template const float *Scores::read_block(std::int64_t, std::int64_t, float *) const;
template const double *Scores::read_block(std::int64_t, std::int64_t, double *) const;

Range range_of(const Vector &values, int threads) {
  constexpr std::int64_t highest = std::numeric_limits<std::int64_t>::max();
  Range all{highest, std::numeric_limits<std::int64_t>::min()};
  std::mutex guard;
  with_type(values.kind, [&](auto zero) {
    using From = decltype(zero);
    parallel_chunks(values.size, 1 << 18, threads, [&](std::int64_t begin, std::int64_t end) {
      From low = std::numeric_limits<From>::max(), high = std::numeric_limits<From>::lowest();
      for (std::int64_t i = begin; i < end; ++i) {
        const From value = read<From>(values.data + i * values.stride);
        low = value < low ? value : low;
        high = high < value ? value : high;
      }
      const auto bounded = [](From value) {
        return std::is_same_v<From, std::uint64_t> && static_cast<std::uint64_t>(value) > std::uint64_t(highest)
                   ? highest
                   : static_cast<std::int64_t>(value);
      };
      std::lock_guard<std::mutex> lock(guard);
      all = {std::min(all.low, bounded(low)), std::max(all.high, bounded(high))};
    });
  });
  return values.size ? all : Range{0, -1};
}

} // namespace gdui
