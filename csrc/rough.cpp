#include "rough_products.hpp"

#include <algorithm>
#include <numeric>

#include "hits.hpp"
#include "parallel.hpp"

namespace gdui {
namespace {

// The products of all points with all.
std::vector<float> between(const Centres &centres, Similarity similarity) {
  std::vector<float> out(centres.count * centres.count);
  std::vector<double> point(centres.width);
  for (std::int64_t p = 0; p < centres.count; ++p) {
    std::copy_n(centres.point(p), centres.width, point.begin());
    for (std::int64_t q = 0; q < centres.count; ++q)
      out[p * centres.count + q] = similarity(point.data(), centres.point(q), centres.width);
  }
  return out;
}

// A row to start each centre from, evenly spaced.
Centres chosen_rows(const float *rows, std::int64_t n, std::int64_t width, Similarity similarity) {
  Centres out{std::clamp<std::int64_t>(n / 1000, 1, 64), width, {}, {}};
  for (std::int64_t p = 0; p < out.count; ++p)
    out.points.insert(out.points.end(), rows + p * (n / out.count) * width, rows + (p * (n / out.count) + 1) * width);
  out.between = between(out, similarity);
  return out;
}

// The nearest centre of rows 0, step, 2 step, ...; with `along`, what `locate` writes for each of them.
std::vector<std::int32_t> nearest_centres(const Centres &centres, Similarity similarity, const float *rows,
                                          std::int64_t n, std::int64_t step, int threads, float *along) {
  std::vector<std::int32_t> out((n + step - 1) / step);
  parallel_chunks(static_cast<std::int64_t>(out.size()), 256, threads, [&](std::int64_t begin, std::int64_t end) {
    std::vector<double> row(centres.width);
    std::vector<float> scratch(centres.count);
    for (std::int64_t i = begin; i < end; ++i) {
      std::copy_n(rows + i * step * centres.width, centres.width, row.begin());
      out[i] = locate(centres, similarity, row.data(), along ? along + i * centres.count : scratch.data());
    }
  });
  return out;
}

// The panel's codes, its columns written to `values`.
Panel encode_panel(const Product &product, const Centres &centres, const float *rows, const std::int32_t *order,
                   std::int64_t count, std::int32_t centre, unsigned char *values) {
  std::vector<double> scratch(centres.width);
  Bytes row(centres.width * product.value_size);
  Panel panel{};
  panel.centre = centre;
  for (std::int64_t c = 0; c < count; ++c) {
    const Code code =
        encode(product, centres.point(centre), rows + order[c] * centres.width, centres.width, scratch, row.data());
    product.place(row.data(), centres.width, c, values);
    panel.scale[c] = code.scale;
    panel.norm[c] = code.norm;
    panel.error[c] = code.error;
    panel.most_norm = std::max(panel.most_norm, code.norm);
    panel.most_error = std::max(panel.most_error, code.error);
  }
  return panel;
}

} // namespace

Product product(std::int64_t width, Instructions most) {
  const Instructions best = std::min(most, instructions());
#ifdef GDUI_AMX
  if (best >= Instructions::amx)
    return tile_product();
#endif
#ifdef GDUI_X86
  if (best >= Instructions::avx512 && width <= kWidestBytes)
    return byte_product();
#endif
  static_cast<void>(width);
  return float_product(best);
}

Centres centres(const float *rows, std::int64_t n, std::int64_t width, Similarity similarity, int threads) {
  Centres out = chosen_rows(rows, n, width, similarity);
  const std::int64_t step = n / 10'000 + 1;
  const std::vector<std::int32_t> nearest = nearest_centres(out, similarity, rows, n, step, threads, nullptr);
  std::vector<double> sum(out.points.size());
  std::vector<std::int64_t> size(out.count);
  for (std::size_t i = 0; i < nearest.size(); ++i) {
    const float *row = rows + static_cast<std::int64_t>(i) * step * width;
    double *into = sum.data() + nearest[i] * width;
    std::transform(row, row + width, into, into, [](float x, double total) { return total + x; });
    ++size[nearest[i]];
  }
  for (std::int64_t p = 0; p < out.count; ++p)
    for (std::int64_t t = 0; t < width && size[p] > 0; ++t)
      out.points[p * width + t] = static_cast<float>(sum[p * width + t] / static_cast<double>(size[p]));
  out.between = between(out, similarity);
  return out;
}

std::int32_t locate(const Centres &centres, Similarity similarity, const double *row, float *along) {
  Hit best{0, -kNever};
  for (std::int32_t q = 0; q < centres.count; ++q) {
    along[q] = similarity(row, centres.point(q), centres.width);
    best = std::min(best, Hit{q, along[q] - centres.between[q * centres.count + q] / 2}, nearer);
  }
  return best.index;
}

Code encode(const Product &product, const float *centre, const float *row, std::int64_t width,
            std::vector<double> &scratch, void *values) {
  for (std::int64_t t = 0; t < width; ++t)
    scratch[t] = static_cast<double>(row[t]) - centre[t];
  return product.encode(scratch.data(), width, values);
}

Columns columns(const Product &product, const Centres &centres, Similarity similarity, const float *rows,
                std::int64_t n, int threads) {
  std::vector<float> along(n * centres.count);
  const std::vector<std::int32_t> centre = nearest_centres(centres, similarity, rows, n, 1, threads, along.data());
  const std::int64_t panels = (n + kPanel - 1) / kPanel;
  Columns out;
  out.order.resize(n);
  std::iota(out.order.begin(), out.order.end(), 0);
  std::stable_sort(out.order.begin(), out.order.end(),
                   [&](std::int32_t a, std::int32_t b) { return centre[a] < centre[b]; });
  out.panel_size = kPanel * centres.width * product.value_size;
  out.values.resize(panels * out.panel_size);
  out.panels.resize(panels);
  out.along.assign(centres.count * panels * kPanel, -kNever);
  parallel_chunks(panels, 16, threads, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t at = begin; at < end; ++at) {
      const std::int32_t *order = out.order.data() + at * kPanel;
      const std::int64_t count = std::min(kPanel, n - at * kPanel);
      out.panels[at] = encode_panel(product, centres, rows, order, count, centre[order[count / 2]],
                                    out.values.data() + at * out.panel_size);
      for (std::int64_t p = 0; p < centres.count; ++p)
        for (std::int64_t c = 0; c < count; ++c)
          out.along[(p * panels + at) * kPanel + c] = along[order[c] * centres.count + p];
    }
  });
  return out;
}

QueryTile query_tile(const Product &product, const Centres &centres, const Columns &columns, Similarity similarity,
                     const std::vector<const float *> &rows, float threshold) {
  const std::int64_t width = centres.width, size = width * product.value_size;
  QueryTile out{Bytes(kTile * size), std::vector<float>(kTile * centres.count), {}};
  std::vector<double> scratch(width);
  for (std::int64_t i = 0; i < static_cast<std::int64_t>(rows.size()); ++i) {
    float *offset = out.offsets.data() + i * centres.count;
    std::copy_n(rows[i], width, scratch.begin());
    const std::int32_t own = locate(centres, similarity, scratch.data(), offset);
    for (std::int64_t q = 0; q < centres.count; ++q)
      offset[q] -= centres.between[own * centres.count + q];
    const Code code = encode(product, centres.point(own), rows[i], width, scratch, out.values.data() + i * size);
    out.queries.push_back({code, threshold, offset, columns.along_centre(own)});
  }
  out.queries.resize(kTile, {{}, kNever, out.offsets.data(), columns.along_centre(0)});
  return out;
}

} // namespace gdui
