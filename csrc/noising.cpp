#include "tiles.hpp"

namespace gdui {
namespace {

struct Mix {
  GDUI_INLINE void operator()(float signal, const float *x0, float spread, const float *noise, int length,
                              float *out) const {
    for (int i = 0; i < length; ++i)
      out[i] = signal * x0[i] + spread * noise[i];
  }
};

} // namespace

void noise_images(const Shape &shape, const Steps &steps, const Input &x0, const Noise &noise, const Output &out,
                  int threads) {
  require_steps(steps, shape.images);
  for_each_tile(shape, threads, [&](const Tile &tile) {
    alignas(64) float image_buffer[kTile], noise_buffer[kTile];
    const float *row = row_of(steps, tile.image);
    Written written(shape, out, tile);
    run_vectorised(Mix{}, row[kSignal], read(shape, x0, tile, image_buffer), row[kNoise],
                   read_noise(shape, noise, 0, kTraining, tile, noise_buffer), tile.length, written.row());
    written.finish();
  });
}

} // namespace gdui
