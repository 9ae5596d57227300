// A potential ready for inference.
#pragma once
#include <stdexcept>

#include "plan.h"

struct mtp_model {
  mtp::Plan plan;
  mtp::Readout readout;
  int64_t n_species = 0;
  std::vector<int64_t> atomic_numbers;
  std::vector<double> c;
  std::vector<float> c_single;

  // Arrays as in mtp_model_new.
  void set(int64_t species, const double* coefficients, const double* shifts, const double* mean,
           const double* inverse_std, double scale, int64_t n_layers, const int64_t* widths,
           const double* weights) {
    if (species < 1 || n_layers < 0) throw std::runtime_error("the model has no species or no readout");
    const int64_t n_scalars = int64_t(plan.scalars.size());
    n_species = species;
    c.assign(coefficients, coefficients + species * species * plan.n_radial * plan.n_q);
    c_single.assign(c.begin(), c.end());
    readout.widths.assign(1, n_scalars);
    int64_t n_weights = 0;
    for (int64_t k = 0; k < n_layers; k++) {
      if (widths[k] < 1) throw std::runtime_error("a layer has no width");
      n_weights += (readout.widths.back() + 1) * widths[k];
      readout.widths.push_back(widths[k]);
    }
    n_weights += readout.widths.back();
    readout.weights.assign(weights, weights + n_weights);
    readout.shifts.assign(shifts, shifts + species);
    readout.mean.assign(mean, mean + n_scalars);
    readout.inverse_std.assign(inverse_std, inverse_std + n_scalars);
    readout.scale = scale;
  }
};

namespace mtp {
Plan make_plan(int64_t n_basic, const int64_t* basic, int64_t n_products, const int64_t* products,
               int64_t n_scalars, const int64_t* scalars, int64_t n_moments, double r_min, double r_max,
               int64_t n_q);
}
