// The moment table as the passes use it, and the work of one call; independent of the instruction set.
#pragma once
#include <cstdint>
#include <vector>

#include "grade.h"
#include "mtp.h"

namespace mtp {

// One product; i and j are eight times the row, so that an address is one shift away.
template <class S>
struct TermOf {
  uint32_t i, j;
  S factor;
};

// out[row] = Σ factor · x[i] · y[j] over the row's terms, rows in order.
struct Program {
  std::vector<int32_t> row, begin;  // begin has one entry more than row
  std::vector<TermOf<double>> in_double;
  std::vector<TermOf<float>> in_single;

  void add(int32_t i, int32_t j, double factor) {
    in_double.push_back({8u * uint32_t(i), 8u * uint32_t(j), factor});
    in_single.push_back({8u * uint32_t(i), 8u * uint32_t(j), float(factor)});
  }
  size_t size() const { return in_double.size(); }
  template <class S>
  const TermOf<S>* terms() const;
};
template <>
inline const TermOf<double>* Program::terms<double>() const { return in_double.data(); }
template <>
inline const TermOf<float>* Program::terms<float>() const { return in_single.data(); }

// All components of M_{μ,ν} for one ν: `size` rows from `row` on. Monomials of degree ν stand from
// `monomial` on, those of degree ν − 1 from `lower` on.
struct CoreTensor {
  int mu, nu, row, size, monomial, lower, lower_size, slope;
  std::vector<int32_t> up[3];   // component reached from one of degree ν − 1 by a factor x, y, z
  std::vector<double> power[3]; // its power of x, y, z: the factor of the derivative
};

// M_{ν−2} is the trace of M_ν (û·û = 1): only the two highest ν of every μ need a loop over pairs.
struct Trace {
  int32_t row, from[3];
};

// The reverse pass of one invariant alone: only the rows that it is made of.
struct Column {
  int32_t row;
  Program reverse;
  std::vector<int32_t> traces;  // of Plan::traces, in the order of the reverse pass
  std::vector<char> used;       // which tensors of Plan::core have a slope
};

struct Plan {
  int n_radial = 0, n_q = 0, n_rows = 0, n_core = 0, n_monomials = 0, max_degree = 0, n_slopes = 0;
  double r_min = 0, r_max = 0;
  std::vector<CoreTensor> core;  // sorted by μ
  std::vector<Trace> traces;     // highest ν first
  int n_basic = 0;               // rows of core tensors and traces; those of products follow
  Program forward, reverse;
  std::vector<int32_t> scalars;  // row of each invariant
};

constexpr double kClampWidth = 0.1;  // Å, as in mtp/basis/radial.py

enum class Activation { kTanh, kSilu, kSoftplus, kGelu, kSigmoid };

// A hidden layer and where its numbers stand among the weights. skip: it is added to its input.
struct DenseLayer {
  int64_t n_in, n_out, weight, bias, timestep;  // timestep: -1 where there is none
  int64_t bias_stride;                          // from one species' biases to the next one's
  bool skip;
};

// Linear or NN readout of the invariants (mtp_readout_new), or that of a tensor. Behind hidden layers the
// last weights see the outputs of the last layer, then the standardised invariants themselves.
//
// A tensor is the sum of gates times tensors: the unit tensor where it is `isotropic`, then those that
// stand behind the invariants in the table. A gate is linear in the last layer and a 1 behind it.
struct Readout {
  int64_t n_scalars = 0, n_biases = 1;
  int64_t components = 0, n_gates = 0;  // of a tensor; 0 for energies
  bool isotropic = false;
  std::vector<DenseLayer> layers;
  int64_t last = 0, last_width = 0, total_width = 0;  // last: of the last weights; widths summed up
  Activation activation = Activation::kTanh;
  std::vector<double> weights, mean, inverse_std;
  double scale = 1;

  int64_t n_tensors() const { return n_gates - isotropic; }
  int64_t n_outputs() const { return n_scalars + n_tensors() * components; }
  int64_t n_weights() const { return last + (n_gates ? n_gates * (last_width + 1) : last_width); }
};

// One call: a job on given displacements, or inference on positions.
struct Work {
  const Plan* plan = nullptr;
  mtp_job job{};
  const Readout* readout = nullptr;
  const std::vector<Column>* columns = nullptr;  // one for each invariant, where they are wanted one by one
  const double* positions = nullptr;  // inference: displacements come from here
  int64_t n_all = 0;                  // atoms that can be neighbours and receive forces
  const Grading* grading = nullptr;
  double* tensors = nullptr;          // (atoms, components), of a readout for tensors
  double* grades = nullptr;           // (atoms), with a grading
};

using RunFunction = const char* (*)(const Work&);  // null, or what went wrong

}  // namespace mtp
