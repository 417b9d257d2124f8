// The only file that knows Python. Each section binds one header.
#include <algorithm>
#include <optional>
#include <string>

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "diffusion.hpp"
#include "double_softmax.hpp"
#include "norm.hpp"

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

using Array = py::array_t<float, 0>;
using Maybe = std::optional<Array>;
using Whole = Dense<std::int64_t>;

// Images in the strides they come with; `like` is the shape all must have.
template <class T> gdui::View<T> view_of(T *data, const Array &images, const gdui::Shape &like) {
  if (images.ndim() != 3 || images.shape(0) != like.images || images.shape(1) != like.channels ||
      images.shape(2) != like.positions)
    throw std::invalid_argument("all images must have one shape (batch, channels, positions)");
  const auto step = [&](int axis) { return images.strides(axis) / static_cast<std::int64_t>(sizeof(float)); };
  return {data, step(0), step(1), step(2)};
}

gdui::Input input(const Array &images, const gdui::Shape &like) { return view_of(images.data(), images, like); }
gdui::Input input(const Maybe &images, const gdui::Shape &like) {
  return images ? input(*images, like) : gdui::Input{};
}
gdui::Output output(Array &images, const gdui::Shape &like) { return view_of(images.mutable_data(), images, like); }

gdui::Shape shape_of(const Array &images) {
  if (images.ndim() != 3)
    throw std::invalid_argument("images must have 3 axes (batch, channels, positions)");
  return {images.shape(0), images.shape(1), images.shape(2)};
}

gdui::Noise noise_of(const Maybe &noise, const std::optional<Whole> &seed, const gdui::Shape &shape) {
  if (seed && (seed->ndim() != 1 || seed->shape(0) != shape.images))
    throw std::invalid_argument("seed must be (batch)");
  return {input(noise, shape), seed ? seed->data() : nullptr};
}

gdui::Steps steps_of(const Whole &t, const Dense<float> &table, const gdui::Shape &shape) {
  if (t.ndim() != 1 || t.shape(0) != shape.images || table.ndim() != 2 || table.shape(1) != gdui::kColumns)
    throw std::invalid_argument("t must be (batch), and table (steps, columns)");
  return {t.data(), table.data(), table.shape(0)};
}

// The option that goes by `name`.
template <class T> T named(const std::string &name, std::initializer_list<std::pair<const char *, T>> options) {
  for (const auto &[known, option] : options)
    if (name == known)
      return option;
  throw std::invalid_argument("unknown option '" + name + "'");
}

gdui::Target target_of(const std::string &name) {
  return named<gdui::Target>(name, {{"eps", gdui::Target::eps}, {"x0", gdui::Target::x0}, {"v", gdui::Target::v}});
}

void noise_images(const Array &x0, const Whole &t, const Dense<float> &table, const Maybe &noise,
                  const std::optional<Whole> &seed, Array out, int threads) {
  const gdui::Shape shape = shape_of(x0);
  const gdui::Steps steps = steps_of(t, table, shape);
  const gdui::Input from = input(x0, shape);
  const gdui::Noise drawn = noise_of(noise, seed, shape);
  const gdui::Output to = output(out, shape);
  py::gil_scoped_release release;
  gdui::noise_images(shape, steps, from, drawn, to, threads);
}

gdui::Loss loss_of(const gdui::Shape &shape, const Array &predicted, const Maybe &values, const Array &x0,
                   const Maybe &noise, const std::optional<Whole> &seed, const std::string &kind,
                   const std::string &target, const std::string &weighting, float bound_scale) {
  using gdui::Kind, gdui::Weighting;
  gdui::Loss loss{};
  loss.kind = named<Kind>(kind, {{"simple", Kind::simple}, {"hybrid", Kind::hybrid}, {"vlb", Kind::vlb}});
  loss.target = target_of(target);
  loss.weighting =
      named<Weighting>(weighting, {{"none", Weighting::none}, {"min_snr", Weighting::min_snr}, {"p2", Weighting::p2}});
  loss.bound_scale = bound_scale;
  loss.predicted = input(predicted, shape);
  loss.values = input(values, shape);
  loss.x0 = input(x0, shape);
  loss.noise = noise_of(noise, seed, shape);
  if (loss.kind != Kind::simple && !values)
    throw std::invalid_argument("the variational bound needs values of the variance");
  return loss;
}

void denoising_loss(const Array &predicted, const Maybe &values, const Array &x0, const Whole &t,
                    const Dense<float> &table, const Maybe &noise, const std::optional<Whole> &seed,
                    const std::string &kind, const std::string &target, const std::string &weighting, float bound_scale,
                    const std::optional<Dense<float>> &above, std::optional<Array> dpredicted,
                    std::optional<Array> dvalues, Dense<float> out, int threads) {
  const gdui::Shape shape = shape_of(x0);
  const gdui::Steps steps = steps_of(t, table, shape);
  const gdui::Loss loss = loss_of(shape, predicted, values, x0, noise, seed, kind, target, weighting, bound_scale);
  if (out.ndim() != 1 || out.shape(0) != shape.images || (above && (above->ndim() != 1 || above->size() != out.size())))
    throw std::invalid_argument("above and out must be (batch)");
  if (dpredicted && values.has_value() != dvalues.has_value())
    throw std::invalid_argument("dvalues must be as present as values");
  gdui::Gradients gradients{};
  gradients.above = above ? above->data() : nullptr;
  gradients.predicted = dpredicted ? output(*dpredicted, shape) : gdui::Output{};
  gradients.values = dvalues ? output(*dvalues, shape) : gdui::Output{};
  float *to = out.mutable_data();
  py::gil_scoped_release release;
  gdui::denoising_loss(shape, steps, loss, gradients, to, threads);
}

void guided_step(const Array &x, const Array &predicted, const Maybe &values, const Whole &t, const Dense<float> &table,
                 const Maybe &gradient, float scale, const Maybe &noise, const std::optional<Whole> &seed,
                 const std::string &method, float eta, const std::string &variance,
                 const std::optional<Dense<float>> &limit, const std::string &target, const Maybe &unconditional,
                 float guidance, Array out, int threads) {
  using gdui::Method, gdui::Variance;
  const gdui::Shape shape = shape_of(x);
  const gdui::Steps steps = steps_of(t, table, shape);
  gdui::Step step{};
  step.method = named<Method>(method, {{"ancestral", Method::ancestral}, {"ddim", Method::ddim}});
  step.variance = named<Variance>(
      variance,
      {{"learned_range", Variance::learned}, {"fixed_small", Variance::small}, {"fixed_large", Variance::large}});
  step.target = target_of(target);
  step.scale = scale, step.eta = eta, step.guidance = guidance;
  step.x = input(x, shape);
  step.predicted = input(predicted, shape);
  step.values = input(values, shape);
  step.gradient = input(gradient, shape);
  step.unconditional = input(unconditional, shape);
  step.noise = noise_of(noise, seed, shape);
  const bool needs_noise = step.method == Method::ancestral || eta != 0;
  if ((step.variance == Variance::learned && step.method == Method::ancestral && !values) ||
      (needs_noise && !noise && !seed) || (limit && (limit->ndim() != 1 || limit->shape(0) != shape.images)))
    throw std::invalid_argument("a step needs its variance's values and its noise, and limit must be (batch)");
  step.limit = limit ? limit->data() : nullptr;
  const gdui::Output to = output(out, shape);
  py::gil_scoped_release release;
  gdui::guided_step(shape, steps, step, to, threads);
}

void bind_diffusion(py::module_ &m) {
  m.def("noise_images", &noise_images, exact("x0"), exact("t"), exact("table"), exact("noise"), exact("seed"),
        exact("out"), py::arg("threads"));
  m.def("denoising_loss", &denoising_loss, exact("predicted"), exact("values"), exact("x0"), exact("t"), exact("table"),
        exact("noise"), exact("seed"), py::arg("kind"), py::arg("target"), py::arg("weighting"), py::arg("bound_scale"),
        exact("above"), exact("dpredicted"), exact("dvalues"), exact("out"), py::arg("threads"));
  m.def("guided_step", &guided_step, exact("x"), exact("predicted"), exact("values"), exact("t"), exact("table"),
        exact("gradient"), py::arg("scale"), exact("noise"), exact("seed"), py::arg("method"), py::arg("eta"),
        py::arg("variance"), exact("limit"), py::arg("target"), exact("unconditional"), py::arg("guidance"),
        exact("out"), py::arg("threads"));
}

} // namespace

PYBIND11_MODULE(_core, m) {
  m.doc() = "The compiled core of gdui. Use it through gdui.labeling.";

  m.def("double_softmax_loss", &double_softmax_loss, exact("logits"), exact("targets"), exact("losses"),
        py::arg("threads"));
  m.def("double_softmax_loss_backward", &double_softmax_loss_backward, exact("logits"), exact("targets"),
        exact("dlosses"), exact("dlogits"), py::arg("threads"));
  bind_diffusion(m);
  bind_group_norm<float, float>(m);
  bind_group_norm<gdui::BFloat16, std::uint16_t>(m);
}
