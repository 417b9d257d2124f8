// The clustering heads' loss: cross-entropy of a softmax of a softmax.
#pragma once

#include <cstdint>

namespace gdui {

// log sum exp(p) - p[target] with p = softmax(logits), for each of `rows` rows of `clusters` logits. A row without a
// target
// (-1) has no loss. The result doesn't depend on the number of threads.
void double_softmax_loss(const float *logits, const std::int64_t *targets, std::int64_t rows, std::int64_t clusters,
                         float *losses, int threads);

// The gradient to the logits, from that to each row's loss.
void double_softmax_loss_backward(const float *logits, const std::int64_t *targets, const float *dlosses,
                                  std::int64_t rows, std::int64_t clusters, float *dlogits, int threads);

} // namespace gdui
