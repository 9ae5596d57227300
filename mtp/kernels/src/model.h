// A potential ready for inference.
#pragma once
#include <memory>
#include <stdexcept>

#include "plan.h"

struct mtp_model {
  mtp::Plan plan;
  mtp::Readout readout;
  int64_t n_species = 0;
  std::vector<int64_t> atomic_numbers;  // of a model from a file
  std::vector<double> c, shifts;
  std::vector<float> c_single;
  // What the readout gives without neighbours, (S) energies or (S, components), in double and in single.
  std::vector<double> offset[2];
  std::vector<char> selected;  // (S) whether atoms of a species contribute to a tensor
  mtp::Grading grading;

  void set(int64_t species, const double* coefficients, const double* species_shifts) {
    if (species < 1) throw std::runtime_error("the model has no species");
    n_species = species;
    c.assign(coefficients, coefficients + species * species * plan.n_radial * plan.n_q);
    c_single.assign(c.begin(), c.end());
    shifts.assign(species_shifts, species_shifts + species);
  }
};

namespace mtp {
Plan make_plan(int64_t n_basic, const int64_t* basic, int64_t n_products, const int64_t* products,
               int64_t n_scalars, const int64_t* scalars, int64_t n_moments, double r_min, double r_max,
               int64_t n_q);
// The shape of a readout; the n_weights() weights and the other numbers are still to be set.
Readout make_readout(int64_t n_scalars, int64_t n_layers, const int64_t* widths, const char* activation,
                     bool timestep, int64_t n_biases);
std::unique_ptr<mtp_model> load_model(const char* path, const char* head);
}  // namespace mtp
