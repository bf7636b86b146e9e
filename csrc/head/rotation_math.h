// From the four pooled numbers v of a sample to its shift s = R^T 1, and the gradient back. Always in float64: there
// are four numbers for a whole map, and a norm of float32 values neither overflows nor underflows.
//
//   k = d / (|d| + 1e-8), d = v[0:3]      t = tanh(v[3]) pi / 4      c = k x 1, 1 = (1, 1, 1)
//   linear: s = 1 - t c                   exact: s = 1 - sin t c + (1 - cos t) k x c
//
// For the gradient g of s (x . (y x z) is invariant under rotation of its factors):
//   linear: g_t = -g . c                               g_c = -t g                              g_k = 1 x g_c
//   exact:  g_t = -cos t g . c + sin t g . (k x c)     g_c = -sin t g + (1 - cos t) g x k      g_k = 1 x g_c + (1 - cos
//   t) c x g g_d = g_k / n - d (g_k . d) / (n^2 |d|), n = |d| + 1e-8; at d = 0 the norm has the subgradient 0: g_k / n
//   g_v3 = g_t (1 - tanh^2 v[3]) pi / 4
#pragma once
#include <cmath>

#if defined(__CUDACC__)
#define CROSSD_HOST_DEVICE __host__ __device__
#else
#define CROSSD_HOST_DEVICE
#endif

namespace crossd_ops {

struct Vector3 {
  double x, y, z;
};
CROSSD_HOST_DEVICE inline Vector3 operator+(Vector3 a, Vector3 b) { return {a.x + b.x, a.y + b.y, a.z + b.z}; }
CROSSD_HOST_DEVICE inline Vector3 operator-(Vector3 a, Vector3 b) { return {a.x - b.x, a.y - b.y, a.z - b.z}; }
CROSSD_HOST_DEVICE inline Vector3 operator*(double a, Vector3 b) { return {a * b.x, a * b.y, a * b.z}; }
CROSSD_HOST_DEVICE inline double dot(Vector3 a, Vector3 b) { return a.x * b.x + a.y * b.y + a.z * b.z; }
CROSSD_HOST_DEVICE inline Vector3 cross(Vector3 a, Vector3 b) {
  return {a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x};
}

struct Rotation {
  Vector3 direction;  // d
  double norm;        // |d|
  Vector3 axis;       // k
  double tanh, angle;
};

constexpr double kNormEpsilon = 1e-8;
constexpr double kLargestAngle = 0.78539816339744830962;  // pi / 4

CROSSD_HOST_DEVICE inline Rotation rotation_of(const double* v) {  // [4]
  const Vector3 direction{v[0], v[1], v[2]};
  const double norm = std::sqrt(dot(direction, direction)), tanh = std::tanh(v[3]);
  return {direction, norm, 1 / (norm + kNormEpsilon) * direction, tanh, kLargestAngle * tanh};
}

// 1 - cos t without cancellation at the small angles that heads predict.
CROSSD_HOST_DEVICE inline double one_minus_cosine(double angle) {
  const double sine = std::sin(angle / 2);
  return 2 * sine * sine;
}

CROSSD_HOST_DEVICE inline Vector3 shift_of_rotation(const double* v, bool exact) {
  const Vector3 one{1, 1, 1};
  const Rotation rotation = rotation_of(v);
  const Vector3 c = cross(rotation.axis, one);
  if (!exact) return one - rotation.angle * c;
  return one - std::sin(rotation.angle) * c + one_minus_cosine(rotation.angle) * cross(rotation.axis, c);
}

CROSSD_HOST_DEVICE inline void grad_of_pooled(const double* v, Vector3 g, bool exact, double* grad_v) {
  const Vector3 one{1, 1, 1};
  const Rotation rotation = rotation_of(v);
  const Vector3 k = rotation.axis, c = cross(k, one);
  double grad_angle;
  Vector3 grad_axis;
  if (exact) {
    const double sine = std::sin(rotation.angle), cosine = std::cos(rotation.angle),
                 rest = one_minus_cosine(rotation.angle);
    grad_angle = sine * dot(g, cross(k, c)) - cosine * dot(g, c);
    grad_axis = cross(one, rest * cross(g, k) - sine * g) + rest * cross(c, g);
  } else {
    grad_angle = -dot(g, c);
    grad_axis = cross(one, -rotation.angle * g);
  }
  Vector3 grad_direction = 1 / (rotation.norm + kNormEpsilon) * grad_axis;
  if (rotation.norm != 0) grad_direction = grad_direction - dot(grad_direction, k) / rotation.norm * rotation.direction;
  grad_v[0] = grad_direction.x, grad_v[1] = grad_direction.y, grad_v[2] = grad_direction.z;
  grad_v[3] = grad_angle * kLargestAngle * (1 - rotation.tanh) * (1 + rotation.tanh);
}

}  // namespace crossd_ops
