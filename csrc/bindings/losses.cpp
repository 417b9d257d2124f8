#include "bindings.hpp"

#include <algorithm>

#include <pybind11/numpy.h>

#include "../double_softmax.hpp"
#include "../norm.hpp"

namespace py = pybind11;

namespace {

template <class T> using Dense = py::array_t<T, py::array::c_style>;

void require_rows(const Dense<float> &logits, const Dense<std::int64_t> &targets, const Dense<float> &of_rows) {
  if (logits.ndim() != 2 || targets.ndim() != 1 || of_rows.ndim() != 1 || targets.shape(0) != logits.shape(0) ||
      of_rows.shape(0) != logits.shape(0))
    throw std::invalid_argument("logits must be (rows, clusters), and targets and losses (rows)");
  const std::int64_t *target = targets.data(), clusters = logits.shape(1);
  if (std::any_of(target, target + targets.size(), [clusters](std::int64_t t) { return t >= clusters; }))
    throw std::invalid_argument("targets must be below the number of clusters");
}

void double_softmax_loss(const Dense<float> &logits, const Dense<std::int64_t> &targets, Dense<float> &losses,
                         int threads) {
  require_rows(logits, targets, losses);
  const float *from = logits.data();
  const std::int64_t *target = targets.data();
  float *to = losses.mutable_data();
  py::gil_scoped_release release;
  gdui::double_softmax_loss(from, target, logits.shape(0), logits.shape(1), to, threads);
}

void double_softmax_loss_backward(const Dense<float> &logits, const Dense<std::int64_t> &targets,
                                  const Dense<float> &dlosses, Dense<float> &dlogits, int threads) {
  require_rows(logits, targets, dlosses);
  if (dlogits.ndim() != 2 || !std::equal(logits.shape(), logits.shape() + 2, dlogits.shape()))
    throw std::invalid_argument("dlogits must have the shape of logits");
  const float *from = logits.data(), *above = dlosses.data();
  const std::int64_t *target = targets.data();
  float *to = dlogits.mutable_data();
  py::gil_scoped_release release;
  gdui::double_softmax_loss_backward(from, target, above, logits.shape(0), logits.shape(1), to, threads);
}

// Checks the shapes of a group normalisation's arrays: images (batch, pixels, channels), the others (batch, channels).
template <class T>
gdui::Images images_of(const Dense<T> &x, std::int64_t groups, std::initializer_list<const Dense<T> *> images,
                       std::initializer_list<const Dense<float> *> channels) {
  if (x.ndim() != 3)
    throw std::invalid_argument("x must have 3 axes (batch, pixels, channels)");
  for (const auto *other : images)
    if (other->ndim() != 3 || !std::equal(x.shape(), x.shape() + 3, other->shape()))
      throw std::invalid_argument("all images must have the shape of x");
  for (const auto *other : channels)
    if (other->ndim() != 2 || other->shape(0) != x.shape(0) || other->shape(1) != x.shape(2))
      throw std::invalid_argument("what belongs to channels must have the shape (batch, channels)");
  return {x.shape(0), x.shape(1), x.shape(2), groups};
}

// Values are floats, or the bits of bfloat16s.
template <class Value, class T>
void group_norm(const Dense<T> &x, const Dense<float> &gain, const Dense<float> &offset, std::int64_t groups, float eps,
                bool silu, Dense<T> &y, Dense<float> &mean, Dense<float> &rstd, int threads) {
  const gdui::Images shape = images_of(x, groups, {&y}, {&gain, &offset, &mean, &rstd});
  const auto *from = reinterpret_cast<const Value *>(x.data());
  auto *to = reinterpret_cast<Value *>(y.mutable_data());
  const gdui::Affine affine{gain.data(), offset.data()};
  float *means = mean.mutable_data(), *rstds = rstd.mutable_data();
  py::gil_scoped_release release;
  gdui::group_norm(from, shape, affine, eps, silu, to, means, rstds, threads);
}

template <class Value, class T>
void group_norm_backward(const Dense<T> &dy, const Dense<T> &x, const Dense<float> &gain, const Dense<float> &offset,
                         const Dense<float> &mean, const Dense<float> &rstd, std::int64_t groups, bool silu,
                         Dense<T> &dx, Dense<float> &dgain, Dense<float> &doffset, int threads) {
  const gdui::Images shape = images_of(x, groups, {&dy, &dx}, {&gain, &offset, &mean, &rstd, &dgain, &doffset});
  const auto *from = reinterpret_cast<const Value *>(x.data()), *above = reinterpret_cast<const Value *>(dy.data());
  auto *to = reinterpret_cast<Value *>(dx.mutable_data());
  const gdui::Affine affine{gain.data(), offset.data()};
  const float *means = mean.data(), *rstds = rstd.data();
  float *to_gain = dgain.mutable_data(), *to_offset = doffset.mutable_data();
  py::gil_scoped_release release;
  gdui::group_norm_backward(from, above, shape, affine, means, rstds, silu, to, to_gain, to_offset, threads);
}

// Nothing may be converted on the way in: outputs are written in place.
py::arg exact(const char *name) { return std::move(py::arg(name).noconvert()); }

template <class Value, class T> void bind_group_norm(py::module_ &m) {
  m.def("group_norm", &group_norm<Value, T>, exact("x"), exact("gain"), exact("offset"), py::arg("groups"),
        py::arg("eps"), py::arg("silu"), exact("y"), exact("mean"), exact("rstd"), py::arg("threads"));
  m.def("group_norm_backward", &group_norm_backward<Value, T>, exact("dy"), exact("x"), exact("gain"), exact("offset"),
        exact("mean"), exact("rstd"), py::arg("groups"), py::arg("silu"), exact("dx"), exact("dgain"), exact("doffset"),
        py::arg("threads"));
}

} // namespace

void bindings::bind_losses(py::module_ &m) {
  m.def("double_softmax_loss", &double_softmax_loss, exact("logits"), exact("targets"), exact("losses"),
        py::arg("threads"));
  m.def("double_softmax_loss_backward", &double_softmax_loss_backward, exact("logits"), exact("targets"),
        exact("dlosses"), exact("dlogits"), py::arg("threads"));
  bind_group_norm<float, float>(m);
  bind_group_norm<gdui::BFloat16, std::uint16_t>(m);
}
