// The forward passes of the whole head, for one instruction set. Included like simd.h, after tile.h.
//
//   moments:  mean and squared deviations of the hidden channels (training alone)
//   pool:     maximum, sum and weighted sum of the scores
//
// Floor in bytes: the input once, and in training twice, as the statistics of all pixels come before the first score.
// What is hidden stays in the cache, and is computed in both passes: 16 multiply-adds for each element that is read.

inline Floats lane_indices() {
  Floats index;
  for (int lane = 0; lane < kLanes<float>; ++lane) index[lane] = static_cast<float>(lane);
  return index;
}

// Every lane has a population of its own, and tiles are joined to it by their deviation from its mean (Chan, Golub,
// LeVeque 1979): no digit is lost where the mean is far from 0, or from where it began.
struct LaneMoments {
  Floats count, mean[kHiddenChannels], squares[kHiddenChannels];
};

inline void add_tile(const float* hidden, int64_t pixels, LaneMoments& lanes) {
  const int64_t whole = pixels / kLanes<float> * kLanes<float>, left = pixels - whole;
  const Floats zero{}, one = zero + 1.0f, index = lane_indices(), limit = zero + static_cast<float>(left);
  const Floats count = (index < limit ? one : zero) + static_cast<float>(whole / kLanes<float>);
  const Floats total = lanes.count + count;
  const Floats share = count > zero ? count / total : zero, inverse = count > zero ? one / count : zero;
  const Floats between = lanes.count * share;
  for (int h = 0; h < kHiddenChannels; ++h) {
    const float* row = hidden + h * kTilePixels;
    Floats sum{}, squares{};
    for (int64_t p = 0; p < whole; p += kLanes<float>) sum += load_vector(row + p);
    if (left) sum += load_lanes(row + whole, left, zero);
    const Floats mean = sum * inverse;
    for (int64_t p = 0; p < whole; p += kLanes<float>) {
      const Floats deviation = load_vector(row + p) - mean;
      squares += deviation * deviation;
    }
    if (left) {
      const Floats deviation = load_lanes(row + whole, left, mean) - mean;
      squares += deviation * deviation;
    }
    const Floats difference = mean - lanes.mean[h];
    lanes.mean[h] += difference * share;
    lanes.squares[h] += squares + difference * difference * between;
  }
  lanes.count = total;
}

void moments(const HeadPlan& plan, int64_t begin, int64_t end, HiddenMoments* result) {
  const HeadScratch scratch(plan);
  LaneMoments lanes{};
  for_each_tile(plan, begin, end, scratch, [&](int64_t, int64_t, const InputTile& x) {
    hidden_tile(plan, x, scratch.hidden);
    add_tile(scratch.hidden, x.pixels, lanes);
  });
  result->count = sum_of_lanes<float>(lanes.count);
  for (int h = 0; h < kHiddenChannels; ++h) {
    double sum = 0, squares = sum_of_lanes<float>(lanes.squares[h]);
    for (int lane = 0; lane < kLanes<float>; ++lane)
      sum += static_cast<double>(lanes.count[lane]) * static_cast<double>(lanes.mean[h][lane]);
    const double mean = sum / result->count;
    for (int lane = 0; lane < kLanes<float>; ++lane) {
      const double deviation = static_cast<double>(lanes.mean[h][lane]) - mean;
      squares += static_cast<double>(lanes.count[lane]) * deviation * deviation;
    }
    result->mean[h] = mean, result->squares[h] = squares;
  }
}

// As Pooled, of every lane.
struct LanePooled {
  Floats maximum, sum, weighted;
};

inline void pool_row(const float* row, int64_t pixels, LanePooled& lanes) {
  const int64_t whole = pixels / kLanes<float> * kLanes<float>, left = pixels - whole;
  const Floats zero{};
  Floats maximum = lanes.maximum;
  for (int64_t p = 0; p < whole; p += kLanes<float>) maximum = larger(load_vector(row + p), maximum);
  if (left) maximum = larger(load_lanes(row + whole, left, maximum), maximum);
  const Floats factor = exponential(lanes.maximum - maximum);
  Floats sum = lanes.sum * factor, weighted = lanes.weighted * factor;
  for (int64_t p = 0; p < whole; p += kLanes<float>) {
    const Floats m = load_vector(row + p), e = exponential(m - maximum);
    sum += e, weighted += e * m;
  }
  if (left) {
    const Floats m = load_lanes(row + whole, left, maximum);
    const Floats e = lane_indices() < zero + static_cast<float>(left) ? exponential(m - maximum) : zero;
    sum += e, weighted += e * m;
  }
  lanes = {maximum, sum, weighted};
}

inline Pooled pooled_of_lanes(const LanePooled& lanes) {
  float maximum = lanes.maximum[0];
  for (int lane = 1; lane < kLanes<float>; ++lane)
    if (lanes.maximum[lane] > maximum) maximum = lanes.maximum[lane];
  const Floats factor = exponential(lanes.maximum - maximum);
  return {maximum, sum_of_lanes<float>(lanes.sum * factor), sum_of_lanes<float>(lanes.weighted * factor)};
}

void pool_input(const HeadPlan& plan, int64_t begin, int64_t end, Pooled* pooled) {
  const HeadScratch scratch(plan);
  const LanePooled nothing{every_lane(lowest<float>()), {}, {}};
  for (int64_t item = begin; item < end; ++item, pooled += kHeadChannels) {
    LanePooled lanes[kHeadChannels] = {nothing, nothing, nothing, nothing};
    for_each_tile(plan, item, item + 1, scratch, [&](int64_t, int64_t, const InputTile& x) {
      hidden_tile(plan, x, scratch.hidden);
      scores_tile(plan, scratch.hidden, x.pixels, scratch.scores);
      for (int s = 0; s < kHeadChannels; ++s) pool_row(scratch.scores + s * kTilePixels, x.pixels, lanes[s]);
    });
    for (int s = 0; s < kHeadChannels; ++s) pooled[s] = pooled_of_lanes(lanes[s]);
  }
}
