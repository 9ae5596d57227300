// Extrapolation grades (mtp/grade.py): the largest coefficient of an atom's invariants in an active set.
#pragma once
#include <cstdint>
#include <vector>

namespace mtp {

// Of one species: which invariants count, their standardisation, the transposed inverse of the active set.
struct ActiveSet {
  std::vector<int32_t> used;
  std::vector<double> mean, inverse_std, columns;
  std::vector<float> columns_single;

  const double* as(double) const { return columns.data(); }
  const float* as(float) const { return columns_single.data(); }
};

using Grading = std::vector<ActiveSet>;  // by species; empty: there is none

// mean, inverse_std: (S, n); inverse: (S, n, n).
Grading make_grading(int64_t n_species, int64_t n, const double* mean, const double* inverse_std,
                     const double* inverse);

}  // namespace mtp
