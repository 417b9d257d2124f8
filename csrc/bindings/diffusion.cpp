#include "bindings.hpp"

#include <optional>
#include <string>

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include "../diffusion.hpp"

namespace py = pybind11;

namespace {

template <class T> using Dense = py::array_t<T, py::array::c_style>;

// Nothing may be converted on the way in: outputs are written in place.
py::arg exact(const char *name) { return std::move(py::arg(name).noconvert()); }

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
                 const std::string &method, float eta, const std::string &variance, const std::string &clip,
                 std::int64_t rank, const std::string &target, const Maybe &unconditional, float guidance, Array out,
                 int threads) {
  using gdui::Clip, gdui::Method, gdui::Variance;
  const gdui::Shape shape = shape_of(x);
  const gdui::Steps steps = steps_of(t, table, shape);
  gdui::Step step{};
  step.method = named<Method>(method, {{"ancestral", Method::ancestral}, {"ddim", Method::ddim}});
  step.variance = named<Variance>(
      variance,
      {{"learned_range", Variance::learned}, {"fixed_small", Variance::small}, {"fixed_large", Variance::large}});
  step.clip = named<Clip>(clip, {{"none", Clip::none}, {"one", Clip::one}, {"quantile", Clip::quantile}});
  step.rank = rank;
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
      (needs_noise && !noise && !seed))
    throw std::invalid_argument("a step needs its variance's values and its noise");
  if (step.clip == Clip::quantile && (rank < 1 || rank > shape.count()))
    throw std::invalid_argument("rank must be in [1, " + std::to_string(shape.count()) + "]");
  const gdui::Output to = output(out, shape);
  py::gil_scoped_release release;
  gdui::guided_step(shape, steps, step, to, threads);
}

} // namespace

void bindings::bind_diffusion(py::module_ &m) {
  m.def("noise_images", &noise_images, exact("x0"), exact("t"), exact("table"), exact("noise"), exact("seed"),
        exact("out"), py::arg("threads"));
  m.def("denoising_loss", &denoising_loss, exact("predicted"), exact("values"), exact("x0"), exact("t"), exact("table"),
        exact("noise"), exact("seed"), py::arg("kind"), py::arg("target"), py::arg("weighting"), py::arg("bound_scale"),
        exact("above"), exact("dpredicted"), exact("dvalues"), exact("out"), py::arg("threads"));
  m.def("guided_step", &guided_step, exact("x"), exact("predicted"), exact("values"), exact("t"), exact("table"),
        exact("gradient"), py::arg("scale"), exact("noise"), exact("seed"), py::arg("method"), py::arg("eta"),
        py::arg("variance"), py::arg("clip"), py::arg("rank"), py::arg("target"), exact("unconditional"),
        py::arg("guidance"), exact("out"), py::arg("threads"));
}
