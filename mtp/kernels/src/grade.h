// Extrapolation grades (mtp/grade.py): the largest coefficient of an atom's invariants in an active set.
#pragma once
#include <cstdint>
#include <vector>

namespace mtp {

// Per species: standardisation (S, n) and the transposed inverse of the active set (S, n, n).
struct Grading {
  int64_t n = 0;
  std::vector<double> mean, inverse_std, columns;
  std::vector<float> columns_single;

  Grading() = default;
  Grading(int64_t n_species, int64_t n_scalars, const double* mean_, const double* inverse_std_,
          const double* inverse)
      : n(n_scalars), mean(mean_, mean_ + n_species * n), inverse_std(inverse_std_, inverse_std_ + n_species * n) {
    columns.resize(n_species * n * n);
    for (int64_t z = 0; z < n_species; z++)
      for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++) columns[(z * n + j) * n + i] = inverse[(z * n + i) * n + j];
    columns_single.assign(columns.begin(), columns.end());
  }
  const double* columns_of(int64_t species, double) const { return columns.data() + species * n * n; }
  const float* columns_of(int64_t species, float) const { return columns_single.data() + species * n * n; }
};

// max_j |Σ_i x[i]·columns[j, i]| in every lane; several columns at once, so that x is loaded once for them.
template <class V, class S>
inline V largest_coefficient(const V* x, const S* columns, int64_t n) {
  constexpr int kAtOnce = 8;
  V largest = V{};
  auto take = [&](V sum) {
    const V size = sum < 0 ? -sum : sum;
    largest = size <= largest ? largest : size;  // NaN stays NaN
  };
  int64_t j = 0;
  for (; j + kAtOnce <= n; j += kAtOnce) {
    V sum[kAtOnce];
    const S* from = columns + j * n;
    _Pragma("GCC unroll 8") for (int k = 0; k < kAtOnce; k++) sum[k] = V{};
    for (int64_t i = 0; i < n; i++) {
      const V value = x[i];
      _Pragma("GCC unroll 8") for (int k = 0; k < kAtOnce; k++) sum[k] += value * from[k * n + i];
    }
    for (int k = 0; k < kAtOnce; k++) take(sum[k]);
  }
  for (; j < n; j++) {
    V sum = V{};
    for (int64_t i = 0; i < n; i++) sum += x[i] * columns[j * n + i];
    take(sum);
  }
  return largest;
}

}  // namespace mtp
