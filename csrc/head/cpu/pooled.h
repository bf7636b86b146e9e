// What a sample ends with: the parts of its pooled scores joined in their order, its shift, and the gradient back.
#pragma once
#include <algorithm>
#include <cmath>

#include "head/cpu/rotation_plan.h"
#include "head/rotation_math.h"

namespace crossd_ops::cpu {

constexpr int64_t kSamplesWorthAThread = 128;  // of the few numbers that a sample ends with

// The parts of one channel of one sample, [parts, 4] apart from each other.
inline Pooled joined(const Pooled* pooled, int64_t parts) {
  Pooled total = pooled[0];
  for (int64_t part = 1; part < parts; ++part)
    total.maximum = std::max(total.maximum, pooled[part * kHeadChannels].maximum);
  total.sum = total.weighted = 0;
  for (int64_t part = 0; part < parts; ++part) {
    const Pooled& one = pooled[part * kHeadChannels];
    const double factor = one.maximum == total.maximum ? 1.0 : std::exp(one.maximum - total.maximum);
    total.sum += factor * one.sum, total.weighted += factor * one.weighted;
  }
  return total;
}

// pooled: [parts, 4]; statistics: [4, 3]; shift: [3]; all of one sample.
template <typename Acc>
void finish_sample(const Pooled* pooled, int64_t parts, bool exact, Acc* statistics, Acc* target) {
  double v[kHeadChannels];
  for (int channel = 0; channel < kHeadChannels; ++channel) {
    const Pooled total = joined(pooled + channel, parts);
    Acc* of_channel = statistics + channel * 3;
    of_channel[0] = static_cast<Acc>(total.maximum), of_channel[1] = static_cast<Acc>(total.sum);
    of_channel[2] = static_cast<Acc>(total.weighted / total.sum);
    v[channel] = of_channel[2];  // as the backward will read it
  }
  const Vector3 shift = shift_of_rotation(v, exact);
  target[0] = static_cast<Acc>(shift.x), target[1] = static_cast<Acc>(shift.y), target[2] = static_cast<Acc>(shift.z);
}

// statistics: [4, 3]; grad_shift: [3]; channels: [4]; all of one sample.
template <typename Acc>
void channel_gradients(const Acc* statistics, const Acc* grad_shift, bool exact, ChannelGradient* channels) {
  double v[kHeadChannels], grad_v[kHeadChannels];
  for (int channel = 0; channel < kHeadChannels; ++channel) v[channel] = statistics[channel * 3 + 2];
  grad_of_pooled(v, {grad_shift[0], grad_shift[1], grad_shift[2]}, exact, grad_v);
  for (int channel = 0; channel < kHeadChannels; ++channel) {
    const Acc* of_channel = statistics + channel * 3;
    channels[channel] = {of_channel[0], grad_v[channel] / of_channel[1], of_channel[2]};
  }
}

}  // namespace crossd_ops::cpu
