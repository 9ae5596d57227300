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

}  // namespace mtp
