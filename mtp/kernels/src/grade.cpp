// Active sets as the passes use them.
#include "grade.h"

namespace mtp {
namespace {

// Invariants with nothing but zeros in the inverse do not count: they cost nothing.
ActiveSet make_active_set(int64_t n, const double* mean, const double* inverse_std, const double* inverse) {
  ActiveSet active;
  for (int64_t i = 0; i < n; i++) {
    bool any = false;
    for (int64_t j = 0; j < n; j++) any |= inverse[i * n + j] != 0 || inverse[j * n + i] != 0;
    if (!any) continue;
    active.used.push_back(int32_t(i));
    active.mean.push_back(mean[i]);
    active.inverse_std.push_back(inverse_std[i]);
  }
  for (int32_t j : active.used)
    for (int32_t i : active.used) active.columns.push_back(inverse[i * n + j]);
  active.columns_single.assign(active.columns.begin(), active.columns.end());
  return active;
}

}  // namespace

Grading make_grading(int64_t n_species, int64_t n, const double* mean, const double* inverse_std,
                     const double* inverse) {
  Grading grading;
  for (int64_t z = 0; z < n_species; z++)
    grading.push_back(make_active_set(n, mean + z * n, inverse_std + z * n, inverse + z * n * n));
  return grading;
}

}  // namespace mtp
