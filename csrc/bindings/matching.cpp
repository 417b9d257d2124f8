#include "bindings.hpp"

#include "../match.hpp"
#include "../refine.hpp"
#include "../select.hpp"
#include "../vote.hpp"
#include "views.hpp"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <optional>

namespace py = pybind11;
using namespace py::literals;
using bindings::matrix;
using bindings::vector;

namespace {

using Array = py::array;
template <class T> using Output = py::array_t<T>;
template <class T> using Dense = py::array_t<T, Array::c_style | Array::forcecast>;

template <class T> std::vector<T> copied(const Dense<T> &array) { return {array.data(), array.data() + array.size()}; }

// An array that owns the vector's memory.
template <class T> Output<T> handed_over(std::vector<T> &&values) {
  auto owner = std::make_unique<std::vector<T>>(std::move(values));
  T *data = owner->data();
  const auto size = static_cast<py::ssize_t>(owner->size());
  py::capsule free(owner.release(), [](void *it) { delete static_cast<std::vector<T> *>(it); });
  return Output<T>(size, data, free);
}

// --- match.hpp ---

gdui::Market market(const Array &priority, const Array &class_priority, const std::vector<Array> &tie_break,
                    const Dense<std::int64_t> &seats) {
  gdui::Market out{matrix(priority), matrix(class_priority), {}, copied(seats)};
  for (const Array &table : tie_break)
    out.tie_break.push_back(matrix(table));
  return out;
}

Output<std::int64_t> stable_match(const Array &priority, const std::optional<Array> &class_priority,
                                  const std::vector<Array> &tie_break, const Dense<std::int64_t> &seats, int threads) {
  const auto given = market(priority, class_priority.value_or(priority), tie_break, seats);
  std::vector<std::int64_t> class_of;
  {
    py::gil_scoped_release release;
    class_of = class_priority ? gdui::match_two_sided(given) : gdui::match_shared(given, threads);
  }
  return handed_over(std::move(class_of));
}

py::tuple certify(const Array &priority, const std::optional<Array> &class_priority,
                  const std::vector<Array> &tie_break, const Dense<std::int64_t> &seats,
                  const Dense<std::int64_t> &class_of, int threads) {
  const auto given = market(priority, class_priority.value_or(priority), tie_break, seats);
  const std::vector<std::int64_t> classes = copied(class_of);
  gdui::Certificate found;
  {
    py::gil_scoped_release release;
    found = gdui::certify(given, classes, threads);
  }
  return py::make_tuple(found.blocking_pairs, handed_over(std::move(found.margin)), handed_over(std::move(found.value)),
                        found.checksum);
}

// --- select.hpp and vote.hpp ---

py::tuple range_of(const Array &values, int threads) {
  const gdui::Vector given = vector(values);
  gdui::Range range;
  {
    py::gil_scoped_release release;
    range = gdui::range_of(given, threads);
  }
  return py::make_tuple(range.low, range.high);
}

py::tuple most_or_least(const Array &cluster, const Array &confidence, const Dense<std::int64_t> &wanted, bool most,
                        int threads) {
  const std::vector<std::int64_t> limits = copied(wanted);
  const gdui::Labels labels{"cluster", vector(cluster), wanted.size()};
  const gdui::Scores scores{"confidence", vector(confidence)};
  gdui::Selection chosen;
  {
    py::gil_scoped_release release;
    chosen = (most ? gdui::most_confident : gdui::least_confident)(labels, scores, limits, threads);
  }
  return py::make_tuple(handed_over(std::move(chosen.index)), handed_over(std::move(chosen.offset)));
}

Output<double> vote_shares(const Array &votes, const Array &cluster, std::int64_t classes, std::int64_t clusters,
                           int threads) {
  const gdui::Labels voted{"votes", vector(votes), classes}, labels{"cluster", vector(cluster), clusters};
  Output<double> table({clusters, classes});
  double *out = table.mutable_data();
  py::gil_scoped_release release;
  gdui::vote_shares(voted, labels, out, threads);
  return table;
}

Output<double> consistency(const Array &neighbors, const Array &cluster, std::int64_t clusters, int threads) {
  const gdui::Matrix near = matrix(neighbors);
  const gdui::Labels labels{"cluster", vector(cluster), clusters};
  Output<double> share(near.rows);
  double *out = share.mutable_data();
  py::gil_scoped_release release;
  gdui::consistency(near, labels, out, threads);
  return share;
}

// --- refine.hpp ---

struct Policy {
  std::int64_t n;
  double weight_top, weight_btm, lambda_delta, lambda_top, lambda_btm;
  bool relabel_no_vote;
};

gdui::Question question(const Array &cluster, const Array &confidence, const Array &rank_by, const Array &opinion,
                        const Dense<std::int32_t> &name, std::int64_t classes, const Policy &policy) {
  const auto clusters = static_cast<std::int64_t>(name.size());
  return {{"cluster", vector(cluster), clusters},
          {"confidence", vector(confidence)},
          {rank_by.is(confidence) ? "confidence" : "rank_by", vector(rank_by)},
          {"opinion", vector(opinion), classes},
          copied(name),
          policy.n,
          {policy.weight_top, policy.weight_btm, policy.lambda_delta, policy.lambda_top, policy.lambda_btm,
           policy.relabel_no_vote}};
}

py::tuple judgement_arrays(const gdui::Judged &judged) {
  std::vector<std::uint8_t> branch;
  std::vector<double> top, btm, r;
  for (const gdui::Judgement &judgement : judged.cluster) {
    branch.push_back(judgement.branch);
    top.push_back(judgement.delta_top);
    btm.push_back(judgement.delta_btm);
    r.push_back(judgement.r_btm);
  }
  return py::make_tuple(handed_over(std::move(branch)), handed_over(std::move(top)), handed_over(std::move(btm)),
                        handed_over(std::move(r)));
}

py::tuple refine(const Array &cluster, const Array &confidence, const Array &rank_by, const Array &opinion,
                 const Dense<std::int32_t> &name, std::int64_t classes, const Policy &policy, double sigma,
                 int threads) {
  const gdui::Question asked = question(cluster, confidence, rank_by, opinion, name, classes, policy);
  Output<std::int32_t> label(asked.cluster.values.size);
  Output<std::uint8_t> rule(asked.cluster.values.size);
  std::int32_t *label_at = label.mutable_data();
  std::uint8_t *rule_at = rule.mutable_data();
  gdui::Judged judged;
  {
    py::gil_scoped_release release;
    judged = gdui::judge(asked, threads);
    gdui::refine(asked, judged, sigma, label_at, rule_at, threads);
  }
  return py::make_tuple(label, rule) + judgement_arrays(judged);
}

py::tuple sweep(const Array &cluster, const Array &confidence, const Array &rank_by, const Array &opinion,
                const Dense<std::int32_t> &name, std::int64_t classes, const Policy &policy, const Dense<double> &sigma,
                int threads) {
  const gdui::Question asked = question(cluster, confidence, rank_by, opinion, name, classes, policy);
  const std::vector<double> steps = copied(sigma);
  gdui::Outcome outcome;
  {
    py::gil_scoped_release release;
    outcome = gdui::sweep(asked, gdui::judge(asked, threads), steps, classes, threads);
  }
  return py::make_tuple(handed_over(std::move(outcome.changed)), handed_over(std::move(outcome.agreeing)),
                        handed_over(std::move(outcome.class_size)));
}

} // namespace

void bindings::bind_matching(py::module_ &m) {
  m.def("stable_match", &stable_match, "priority"_a, "class_priority"_a.none(true), "tie_break"_a, "seats"_a,
        "threads"_a);
  m.def("certify", &certify, "priority"_a, "class_priority"_a.none(true), "tie_break"_a, "seats"_a,
        "class_of_cluster"_a, "threads"_a);

  m.def("range_of", &range_of, "values"_a, "threads"_a);
  m.def("select", &most_or_least, "cluster"_a, "confidence"_a, "wanted"_a, "most"_a, "threads"_a);
  m.def("vote_shares", &vote_shares, "votes"_a, "cluster"_a, "classes"_a, "clusters"_a, "threads"_a);
  m.def("consistency", &consistency, "neighbors"_a, "cluster"_a, "clusters"_a, "threads"_a);

  py::class_<Policy>(m, "Policy")
      .def(py::init<std::int64_t, double, double, double, double, double, bool>(), "n"_a, "weight_top"_a,
           "weight_btm"_a, "lambda_delta"_a, "lambda_top"_a, "lambda_btm"_a, "relabel_no_vote"_a)
      .def_readonly("n", &Policy::n)
      .def_readonly("weight_top", &Policy::weight_top)
      .def_readonly("weight_btm", &Policy::weight_btm)
      .def_readonly("lambda_delta", &Policy::lambda_delta)
      .def_readonly("lambda_top", &Policy::lambda_top)
      .def_readonly("lambda_btm", &Policy::lambda_btm)
      .def_readonly("relabel_no_vote", &Policy::relabel_no_vote);
  m.def("refine", &refine, "cluster"_a, "confidence"_a, "rank_by"_a, "opinion"_a, "name"_a, "classes"_a, "policy"_a,
        "sigma"_a, "threads"_a);
  m.def("sweep", &sweep, "cluster"_a, "confidence"_a, "rank_by"_a, "opinion"_a, "name"_a, "classes"_a, "policy"_a,
        "sigma"_a, "threads"_a);
}
