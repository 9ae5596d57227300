// The C interface: plans, checks, choice of the instruction set. No exception leaves this file.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "model.h"
#include "neighbours.h"
#include "plan.h"

namespace mtp {
#if defined(__x86_64__)
// What the compiler can ask of the processor at once: whole levels of x86-64, or single features.
#if defined(__clang__) ? !defined(__apple_build_version__) && __clang_major__ >= 18 : __GNUC__ >= 12
#define MTP_LEVELS 1
#endif
namespace v2 { const char* run(const Work&); }
namespace v3 { const char* run(const Work&); }
namespace v4 { const char* run(const Work&); }
#else
namespace plain { const char* run(const Work&); }
#endif

namespace {

struct Choice {
  const char* name;
  RunFunction run;
};

#if defined(__x86_64__)
constexpr const char* kSets = "MTP_ISA must be v2, v3 or v4, and no more than this processor has";

// Highest level of x86-64 that processor and operating system have; 1 is too little.
int level() {
  __builtin_cpu_init();
#if defined(MTP_LEVELS)
  if (!__builtin_cpu_supports("x86-64-v2")) return 1;
  if (!__builtin_cpu_supports("x86-64-v3")) return 2;
  return __builtin_cpu_supports("x86-64-v4") ? 4 : 3;
#else
  if (!__builtin_cpu_supports("sse4.2") || !__builtin_cpu_supports("popcnt")) return 1;
  unsigned a, b, d, one = 0, extended = 0;  // ecx of two leaves: movbe and f16c, lzcnt
  __get_cpuid(1, &a, &b, &one, &d);
  __get_cpuid(0x80000001, &a, &b, &extended, &d);
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("bmi") ||
      !__builtin_cpu_supports("bmi2") || !(one >> 22 & 1) || !(one >> 29 & 1) || !(extended >> 5 & 1))
    return 2;
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                 __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                 __builtin_cpu_supports("avx512cd")
             ? 4
             : 3;
#endif
}
#else
constexpr const char* kSets = "MTP_ISA must be plain, the only instruction set of this library";
#endif

// MTP_ISA=v2|v3|v4 asks for less than the processor has; more is refused.
Choice choose() {
#if defined(__x86_64__)
  const Choice all[] = {{"v4", v4::run}, {"v3", v3::run}, {"v2", v2::run}};
  const int first = 4 - level();
#else
  const Choice all[] = {{"plain", plain::run}};
  const int first = 0;
#endif
  const char* asked = std::getenv("MTP_ISA");
  for (size_t i = first; i < sizeof(all) / sizeof(all[0]); i++)
    if (!asked || !std::strcmp(asked, all[i].name)) return all[i];
  return {"none", nullptr};
}

const Choice& chosen() {
  static const Choice choice = choose();
  return choice;
}

void run_chosen(const Work& work) {
  if (!chosen().run) throw std::runtime_error(kSets);
  if (const char* error = chosen().run(work)) throw std::runtime_error(error);
}

constexpr int64_t kMaxWidth = 1 << 20, kMaxLayers = 1 << 10;  // their products cannot overflow

int n_components(int nu) { return (nu + 1) * (nu + 2) / 2; }

// Position of (a, b, c) among the components of its degree: a descending, then b descending.
int component(int a, int b, int c) {
  int rest = b + c;
  return rest * (rest + 1) / 2 + c;
}

struct PlanBuilder {
  Plan plan;
  std::map<std::pair<int, int>, int> tensor_row;  // (μ, ν) → first row

  void add_tensors(int64_t n_basic, const int64_t* basic) {
    std::map<int, std::pair<int, int>> range;  // μ → lowest, highest ν
    for (int64_t i = 0; i < n_basic; i++) {
      for (int k = 0; k < 4; k++)
        if (basic[4 * i + k] < 0 || basic[4 * i + k] > 60) throw std::runtime_error("moment index out of range");
      int mu = int(basic[4 * i]), nu = int(basic[4 * i + 1] + basic[4 * i + 2] + basic[4 * i + 3]);
      auto found = range.emplace(mu, std::make_pair(nu, nu)).first;
      found->second.first = std::min(found->second.first, nu);
      found->second.second = std::max(found->second.second, nu);
    }
    for (auto& [mu, nus] : range) {
      plan.n_radial = std::max(plan.n_radial, mu + 1);
      for (int nu = nus.second; nu >= std::max(0, nus.second - 1); nu--) add_core(mu, nu);
    }
    plan.n_core = plan.n_rows;
    for (auto& [mu, nus] : range)
      for (int nu = nus.second - 2; nu >= nus.first; nu--) add_trace(mu, nu);
    plan.n_monomials = 0;
    for (int nu = 0; nu <= plan.max_degree; nu++) plan.n_monomials += n_components(nu);
  }

  void add_core(int mu, int nu) {
    CoreTensor t;
    t.mu = mu;
    t.nu = nu;
    t.row = plan.n_rows;
    t.size = n_components(nu);
    t.monomial = nu * (nu + 1) * (nu + 2) / 6;
    t.lower = (nu - 1) * nu * (nu + 1) / 6;
    t.lower_size = nu ? n_components(nu - 1) : 0;
    t.slope = plan.n_slopes;
    for (int a = nu - 1; a >= 0; a--)
      for (int b = nu - 1 - a; b >= 0; b--) {
        int c = nu - 1 - a - b;
        const int up[3] = {component(a + 1, b, c), component(a, b + 1, c), component(a, b, c + 1)};
        const int power[3] = {a + 1, b + 1, c + 1};
        for (int k = 0; k < 3; k++) {
          t.up[k].push_back(up[k]);
          t.power[k].push_back(power[k]);
        }
      }
    plan.n_slopes += nu ? 3 * t.lower_size : 1;
    plan.n_rows += t.size;
    plan.max_degree = std::max(plan.max_degree, nu);
    tensor_row[{mu, nu}] = t.row;
    plan.core.push_back(t);
  }

  void add_trace(int mu, int nu) {
    int above = tensor_row.at({mu, nu + 2});
    tensor_row[{mu, nu}] = plan.n_rows;
    for (int a = nu; a >= 0; a--)
      for (int b = nu - a; b >= 0; b--) {
        int c = nu - a - b;
        plan.traces.push_back({plan.n_rows++,
                               {above + component(a + 2, b, c), above + component(a, b + 2, c),
                                above + component(a, b, c + 2)}});
      }
  }

  void add_products(int64_t n_basic, const int64_t* basic, int64_t n_products, const int64_t* products,
                    int64_t n_scalars, const int64_t* scalars, int64_t n_moments) {
    plan.n_basic = plan.n_rows;
    std::vector<int32_t> row(n_moments, -1);
    for (int64_t i = 0; i < n_basic; i++) {
      const int64_t* k = basic + 4 * i;
      row[i] = tensor_row.at({int(k[0]), int(k[1] + k[2] + k[3])}) + component(int(k[1]), int(k[2]), int(k[3]));
    }
    std::map<int64_t, std::vector<int64_t>> group;  // target → its products
    std::vector<int64_t> last(n_moments, -1), order;
    for (int64_t i = 0; i < n_products; i++) {
      const int64_t* k = products + 4 * i;
      for (int c : {0, 1, 3})
        if (k[c] < 0 || k[c] >= n_moments) throw std::runtime_error("product index out of range");
      if (k[3] < n_basic) throw std::runtime_error("a product writes to a basic moment");
      group[k[3]].push_back(i);
      last[k[3]] = i;
    }
    for (int64_t i = 0; i < n_products; i++)
      if (last[products[4 * i + 3]] == i) order.push_back(products[4 * i + 3]);
    for (int64_t target : order) row[target] = plan.n_rows++;
    struct Use {
      int32_t target, other;
      double factor;
    };
    std::map<int32_t, std::vector<Use>> uses;
    for (int64_t target : order) {
      plan.forward.row.push_back(row[target]);
      plan.forward.begin.push_back(int32_t(plan.forward.size()));
      for (int64_t i : group[target]) {
        const int64_t* k = products + 4 * i;
        int32_t left = row[k[0]], right = row[k[1]];
        if (left < 0 || right < 0 || last[k[0]] >= i || last[k[1]] >= i)
          throw std::runtime_error("a product reads a moment that is not complete yet");
        double factor = double(k[2]);
        plan.forward.add(left, right, factor);
        if (left == right) {
          uses[left].push_back({row[target], right, 2 * factor});
        } else {
          uses[left].push_back({row[target], right, factor});
          uses[right].push_back({row[target], left, factor});
        }
      }
    }
    plan.forward.begin.push_back(int32_t(plan.forward.size()));
    for (auto use = uses.rbegin(); use != uses.rend(); ++use) {  // later rows first
      plan.reverse.row.push_back(use->first);
      plan.reverse.begin.push_back(int32_t(plan.reverse.size()));
      for (const Use& u : use->second) plan.reverse.add(u.target, u.other, u.factor);
    }
    plan.reverse.begin.push_back(int32_t(plan.reverse.size()));
    for (int64_t i = 0; i < n_scalars; i++) {
      if (scalars[i] < 0 || scalars[i] >= n_moments || row[scalars[i]] < 0)
        throw std::runtime_error("scalar index out of range");
      plan.scalars.push_back(row[scalars[i]]);
    }
  }
};

void say(char* message, int64_t size, const char* text) {
  if (message && size > 0) std::snprintf(message, size_t(size), "%s", text);
}

template <class F>
int guarded(char* message, int64_t size, F function) {
  try {
    function();
    return 0;
  } catch (const std::bad_alloc&) {
    say(message, size, "out of memory");
    return 2;
  } catch (const std::exception& error) {
    say(message, size, error.what());
  } catch (...) {
    say(message, size, "unknown error");
  }
  return 1;
}

void check_species(const int32_t* species, int64_t n, int64_t n_species) {
  for (int64_t i = 0; i < n; i++)
    if (species[i] < 0 || species[i] >= n_species) throw std::runtime_error("a species index is out of range");
}

// A pointer that a pass reads must be there, and what is asked for must follow from what is given.
void check_job(const mtp_job& job) {
  auto need = [](bool fine, const char* text) {
    if (!fine) throw std::runtime_error(text);
  };
  need(job.n_species >= 1 && job.n_atoms >= 0 && job.n_rows >= 0, "no species, or a negative number of something");
  need(!job.n_atoms || (job.species && job.start && job.count && job.base && job.c), "an array of the atoms is missing");
  need(!job.n_rows || (job.neighbour && job.displacement), "an array of the pairs is missing");
  need(!job.v == !job.strain, "v and strain go together");
  need(!job.c_dot || job.d_dot, "c_dot goes with d_dot");
  const bool dual = job.v || job.d_dot, seeds = job.b_bar || job.b_dot_bar;
  need(dual || !job.b_dot, "b_dot needs a tangent direction");
  need(dual || !job.b_dot_bar, "b_dot_bar needs a tangent direction");
  need(!job.readout || !seeds, "seeds are given, but those of a readout follow from it");
  need(!job.readout || !dual || job.energy_weight, "energy_weight is missing");
  need(!job.weights_bar || (dual && job.readout), "weights_bar needs a dual pass");
  need(!job.energies || job.readout, "energies need a readout");
  need(!job.virial || job.forces, "the virial goes with forces");
  need(!job.column_forces == !job.column_virial, "column_forces and column_virial go together");
  need(!job.column_forces || (!dual && !seeds && !job.readout), "the invariants one by one have no seed and no tangent");
  const bool reverse = job.forces || job.c_bar || job.d_bar;
  need(!reverse || seeds || job.readout, "derivatives are wanted without a seed: b_bar, b_dot_bar or a readout");
}

void check_readout(const Readout& readout, const Plan& plan, int64_t n_species) {
  if (readout.n_outputs() != int64_t(plan.scalars.size()))
    throw std::runtime_error("basis and readout do not belong together");
  if (readout.n_biases != 1 && readout.n_biases != n_species)
    throw std::runtime_error("the readout's biases are not for this number of species");
}

// A call of the inference entry; its results are still to be named.
Work inference(const mtp_model& model, int64_t single, int64_t n_threads, int64_t n_local, int64_t n_all,
               const int32_t* species, const double* positions, const int64_t* start, const int32_t* count,
               const int32_t* neighbour) {
  if (n_local < 0 || n_local > n_all) throw std::runtime_error("more local atoms than atoms");
  if (n_all > INT32_MAX) throw std::runtime_error("more atoms and ghosts than 32 bits can count");
  check_species(species, n_all, model.n_species);
  Work work;
  work.plan = &model.plan;
  work.readout = &model.readout;
  work.positions = positions;
  work.n_all = n_all;
  mtp_job& job = work.job;
  job.single = single;
  job.n_threads = n_threads;
  job.n_atoms = n_local;
  job.n_species = model.n_species;
  job.n_rows = INT64_MAX;
  job.species = species;
  job.start = start;
  job.count = count;
  job.neighbour = neighbour;
  job.c = single ? static_cast<const void*>(model.c_single.data()) : model.c.data();
  return work;
}

// What the readout gives for each species without neighbours; taken from the kernel itself, so that
// the energy of an isolated atom is its shift to the last bit.
void set_offsets(mtp_model& model) {
  const int64_t n = model.n_species;
  std::vector<int32_t> species, none(n, 0);
  const std::vector<int64_t> start(n, 0);
  for (int64_t i = 0; i < n; i++) species.push_back(int32_t(i));
  const int64_t components = model.readout.components;
  for (int64_t single : {0, 1}) {
    model.offset[single].assign(n * std::max<int64_t>(1, components), 0.0);
    Work work;
    work.plan = &model.plan;
    work.readout = &model.readout;
    work.n_all = n;
    mtp_job& job = work.job;
    job.single = single;
    job.n_threads = 1;
    job.n_atoms = job.n_species = n;
    job.species = species.data();
    job.start = start.data();
    job.count = job.base = none.data();
    job.c = single ? static_cast<const void*>(model.c_single.data()) : model.c.data();
    (components ? work.tensors : job.energies) = model.offset[single].data();
    run_chosen(work);
    for (double value : model.offset[single])
      if (!(value - value == 0))
        throw std::runtime_error("the model is damaged: an isolated atom has no finite " +
                                 std::string(components ? "tensor" : "energy"));
  }
}

Activation activation_of(const std::string& name) {
  const std::pair<const char*, Activation> all[] = {{"tanh", Activation::kTanh},
                                                    {"silu", Activation::kSilu},
                                                    {"softplus", Activation::kSoftplus},
                                                    {"gelu", Activation::kGelu},
                                                    {"sigmoid", Activation::kSigmoid}};
  std::string known;
  for (const auto& [known_name, activation] : all) {
    if (name == known_name) return activation;
    known += std::string(known.empty() ? "" : ", ") + known_name;
  }
  throw std::runtime_error("activation must be one of " + known + ", got '" + name + "'");
}

}  // namespace

Plan make_plan(int64_t n_basic, const int64_t* basic, int64_t n_products, const int64_t* products,
               int64_t n_scalars, const int64_t* scalars, int64_t n_moments, double r_min, double r_max,
               int64_t n_q) {
  if (n_basic < 1 || n_scalars < 1 || n_moments < n_basic) throw std::runtime_error("the moment table is empty");
  if (!(r_min >= 0) || !(r_max > r_min) || n_q < 1) throw std::runtime_error("the radial basis is not valid");
  PlanBuilder builder;
  builder.add_tensors(n_basic, basic);
  builder.add_products(n_basic, basic, n_products, products, n_scalars, scalars, n_moments);
  builder.plan.r_min = r_min;
  builder.plan.r_max = r_max;
  builder.plan.n_q = int(n_q);
  return builder.plan;
}

static std::vector<Column> make_columns(const Plan& plan) {
  std::vector<Column> columns;
  for (int32_t root : plan.scalars) {
    Column column;
    column.row = root;
    std::vector<char> reached(plan.n_rows, 0);
    reached[root] = 1;
    const auto* term = plan.reverse.terms<double>();
    for (size_t r = 0; r < plan.reverse.row.size(); r++) {
      const size_t before = column.reverse.size();
      for (const auto* end = plan.reverse.terms<double>() + plan.reverse.begin[r + 1]; term != end; term++)
        if (reached[term->i / 8]) column.reverse.add(int32_t(term->i / 8), int32_t(term->j / 8), term->factor);
      if (column.reverse.size() == before) continue;
      column.reverse.row.push_back(plan.reverse.row[r]);
      column.reverse.begin.push_back(int32_t(before));
      reached[plan.reverse.row[r]] = 1;
    }
    column.reverse.begin.push_back(int32_t(column.reverse.size()));
    for (size_t t = plan.traces.size(); t-- > 0;) {
      if (!reached[plan.traces[t].row]) continue;
      column.traces.push_back(int32_t(t));
      for (int32_t row : plan.traces[t].from) reached[row] = 1;
    }
    for (const CoreTensor& t : plan.core)
      column.used.push_back(std::any_of(&reached[t.row], &reached[t.row] + t.size, [](char c) { return c; }));
    columns.push_back(std::move(column));
  }
  return columns;
}

Readout make_readout(int64_t n_scalars, int64_t n_layers, const int64_t* widths, const char* activation,
                     bool timestep, int64_t n_biases) {
  if (n_scalars < 0 || n_layers < 0 || n_layers > kMaxLayers || n_biases < 1)
    throw std::runtime_error("the readout is not valid");
  Readout readout;
  readout.n_scalars = readout.total_width = n_scalars;
  readout.n_biases = n_biases;
  readout.activation = activation_of(activation ? activation : "");
  int64_t width = n_scalars, next = 0;
  for (int64_t k = 0; k < n_layers; k++) {
    if (widths[k] < 1 || widths[k] > kMaxWidth) throw std::runtime_error("a layer's width is not valid");
    const int64_t rows = k == 0 ? n_biases : 1;
    DenseLayer layer{width, widths[k], next, next + width * widths[k], -1, rows > 1 ? widths[k] : 0,
                     width == widths[k]};
    next = layer.bias + rows * widths[k];
    if (timestep && layer.skip) {
      layer.timestep = next;
      next += widths[k];
    }
    width = widths[k];
    readout.total_width += width;
    readout.layers.push_back(layer);
  }
  readout.last = next;
  readout.last_width = width;
  if (n_layers) {  // the last weights see the invariants too
    readout.last_width += n_scalars;
    readout.total_width += n_scalars;
  }
  return readout;
}

}  // namespace mtp

struct mtp_basis {
  mtp::Plan plan;
  mutable std::once_flag once;
  mutable std::vector<mtp::Column> columns;  // made when they are first asked for
};
struct mtp_readout {
  mtp::Readout readout;
};

extern "C" {

int64_t mtp_abi(void) { return MTP_ABI; }

const char* mtp_isa(void) { return mtp::chosen().name; }

int mtp_basis_new(int64_t n_basic, const int64_t* basic, int64_t n_products, const int64_t* products,
                  int64_t n_scalars, const int64_t* scalars, int64_t n_moments, double r_min, double r_max,
                  int64_t n_q, mtp_basis** out, char* message, int64_t message_size) {
  return mtp::guarded(message, message_size, [&] {
    auto made = std::make_unique<mtp_basis>();
    made->plan = mtp::make_plan(n_basic, basic, n_products, products, n_scalars, scalars, n_moments, r_min, r_max, n_q);
    *out = made.release();
  });
}

void mtp_basis_free(mtp_basis* basis) { delete basis; }

void mtp_basis_cost(const mtp_basis* basis, int64_t* counts) {
  const mtp::Plan& p = basis->plan;
  const int64_t radial = p.n_radial * p.n_q;
  const int64_t lower = int64_t(p.max_degree) * (p.max_degree + 1) * (p.max_degree + 2) / 6;
  counts[0] = p.n_core + p.n_monomials + radial + 2 * p.n_q;
  counts[1] = p.n_slopes + lower + 2 * radial + 4 * p.n_q + 16 * p.n_radial;
  counts[2] = 3 * p.n_core + 3 * p.n_monomials + 2 * radial + 4 * p.n_q;
  counts[3] = 3 * p.n_core + 3 * p.n_monomials + 4 * radial + 4 * p.n_q;
  counts[4] = int64_t(p.forward.size());
  counts[5] = int64_t(p.reverse.size());
}

int mtp_run(const mtp_basis* basis, const mtp_job* job, char* message, int64_t message_size) {
  return mtp::guarded(message, message_size, [&] {
    if (!basis || !job) throw std::runtime_error("no basis or job");
    mtp::check_job(*job);
    mtp::check_species(job->species, job->n_atoms, job->n_species);
    mtp::Work work;
    work.plan = &basis->plan;
    work.job = *job;
    work.n_all = job->n_atoms;
    if (job->readout) {
      work.readout = &job->readout->readout;
      mtp::check_readout(*work.readout, basis->plan, job->n_species);
    }
    if (job->column_forces) {
      std::call_once(basis->once, [&] { basis->columns = mtp::make_columns(basis->plan); });
      work.columns = &basis->columns;
    }
    mtp::run_chosen(work);
  });
}

void mtp_model_free(mtp_model* model) { delete model; }

double mtp_model_cutoff(const mtp_model* model) { return model->plan.r_max; }

int64_t mtp_model_species(const mtp_model* model, int64_t* atomic_numbers, int64_t size) {
  for (int64_t i = 0; i < size && i < int64_t(model->atomic_numbers.size()); i++)
    atomic_numbers[i] = model->atomic_numbers[i];
  return model->n_species;
}

int mtp_readout_new(int64_t n_scalars, const double* mean, const double* inverse_std, double scale,
                    int64_t n_layers, const int64_t* widths, const char* activation, int64_t timestep,
                    int64_t n_biases, const double* weights, mtp_readout** out, char* message,
                    int64_t message_size) {
  return mtp::guarded(message, message_size, [&] {
    auto made = std::make_unique<mtp_readout>();
    mtp::Readout& readout = made->readout;
    readout = mtp::make_readout(n_scalars, n_layers, widths, activation, timestep != 0, n_biases);
    readout.mean.assign(mean, mean + n_scalars);
    readout.inverse_std.assign(inverse_std, inverse_std + n_scalars);
    readout.weights.assign(weights, weights + readout.n_weights());
    readout.scale = scale;
    *out = made.release();
  });
}

void mtp_readout_free(mtp_readout* readout) { delete readout; }

int mtp_model_new(const mtp_basis* basis, const mtp_readout* readout, int64_t n_species, const double* c,
                  const double* shifts, mtp_model** out, char* message, int64_t message_size) {
  return mtp::guarded(message, message_size, [&] {
    auto model = std::make_unique<mtp_model>();
    model->plan = basis->plan;
    model->readout = readout->readout;
    mtp::check_readout(model->readout, model->plan, n_species);
    model->set(n_species, c, shifts);
    mtp::set_offsets(*model);
    *out = model.release();
  });
}

int mtp_model_set_grading(mtp_model* model, int64_t n_scalars, const double* mean, const double* inverse_std,
                          const double* inverse, char* message, int64_t message_size) {
  return mtp::guarded(message, message_size, [&] {
    if (n_scalars != int64_t(model->plan.scalars.size()))
      throw std::runtime_error("the grading belongs to another basis");
    model->grading = mtp::make_grading(model->n_species, n_scalars, mean, inverse_std, inverse);
  });
}

int mtp_model_has_grading(const mtp_model* model) { return !model->grading.empty(); }

int mtp_model_load(const char* path, const char* head, mtp_model** out, char* message,
                   int64_t message_size) {
  return mtp::guarded(message, message_size, [&] {
    auto model = mtp::load_model(path, head);
    mtp::set_offsets(*model);
    *out = model.release();
  });
}

int mtp_neighbours_new(int64_t n_atoms, const double* positions, const double* cell, const int32_t* pbc,
                       double cutoff, int64_t n_threads, mtp_neighbours** out, char* message,
                       int64_t message_size) {
  return mtp::guarded(message, message_size, [&] {
    auto list = std::make_unique<mtp_neighbours>();
    mtp::find_neighbours(n_atoms, positions, cell, pbc, cutoff, n_threads, *list);
    *out = list.release();
  });
}

void mtp_neighbours_free(mtp_neighbours* list) { delete list; }

void mtp_neighbours_size(const mtp_neighbours* list, int64_t* n_all, int64_t* n_pairs) {
  *n_all = int64_t(list->owner.size());
  *n_pairs = 0;
  for (const auto& part : list->parts) *n_pairs += int64_t(part.size());
}

void mtp_neighbours_get(const mtp_neighbours* list, int64_t* start, int32_t* count, int32_t* neighbour,
                        int32_t* owner, int32_t* image) {
  int64_t next = 0;
  for (size_t i = 0; i < list->count.size(); i++) {
    start[i] = next;
    next += list->count[i];
  }
  std::copy(list->count.begin(), list->count.end(), count);
  for (const auto& part : list->parts) neighbour = std::copy(part.begin(), part.end(), neighbour);
  std::copy(list->owner.begin(), list->owner.end(), owner);
  std::copy(list->image.begin(), list->image.end(), image);
}

void mtp_ghosts_place(int64_t n_all, const int32_t* owner, const double* shift, const double* atoms,
                      double* positions) {
  for (int64_t i = 0; i < n_all; i++)
    for (int k = 0; k < 3; k++) positions[3 * i + k] = atoms[3 * int64_t(owner[i]) + k] + shift[3 * i + k];
}

void mtp_ghosts_fold(int64_t n_local, int64_t n_all, const int32_t* owner, double* forces) {
  for (int64_t i = n_local; i < n_all; i++)
    for (int k = 0; k < 3; k++) forces[3 * int64_t(owner[i]) + k] += forces[3 * i + k];
}

int mtp_model_compute(const mtp_model* model, int64_t single, int64_t n_threads, int64_t n_local,
                      int64_t n_all, const int32_t* species, const double* positions,
                      const int64_t* start, const int32_t* count, const int32_t* neighbour,
                      double* energy, double* energies, double* forces, double* virial,
                      double* atom_virial, char* message, int64_t message_size) {
  return mtp_model_compute_graded(model, single, n_threads, n_local, n_all, species, positions, start, count,
                                  neighbour, energy, energies, forces, virial, atom_virial, nullptr, message,
                                  message_size);
}

int mtp_model_compute_graded(const mtp_model* model, int64_t single, int64_t n_threads, int64_t n_local,
                             int64_t n_all, const int32_t* species, const double* positions,
                             const int64_t* start, const int32_t* count, const int32_t* neighbour,
                             double* energy, double* energies, double* forces, double* virial,
                             double* atom_virial, double* grades, char* message, int64_t message_size) {
  return mtp::guarded(message, message_size, [&] {
    if (model->readout.components) throw std::runtime_error("the model predicts a tensor, not energies");
    mtp::Work work = mtp::inference(*model, single, n_threads, n_local, n_all, species, positions, start, count,
                                    neighbour);
    if (grades && model->grading.empty())
      throw std::runtime_error("the model has no active set to compute grades from");
    work.grading = &model->grading;
    work.grades = grades;
    std::vector<double> own_virial(atom_virial ? 0 : 6 * n_local);
    mtp_job& job = work.job;
    job.energies = energies;
    job.forces = forces;
    job.virial = atom_virial ? atom_virial : own_virial.data();
    mtp::run_chosen(work);
    const double* offset = model->offset[single ? 1 : 0].data();
    *energy = 0;
    std::fill(virial, virial + 6, 0.0);
    for (int64_t i = 0; i < n_local; i++) {
      energies[i] = energies[i] - offset[species[i]] + model->shifts[species[i]];
      *energy += energies[i];
      for (int k = 0; k < 6; k++) virial[k] += job.virial[6 * i + k];
    }
    double finite = *energy - *energy;
    for (int64_t i = 0; i < 3 * n_all; i++) finite += forces[i] - forces[i];
    if (!(finite == 0))
      throw std::runtime_error("the energy is not finite: atoms coincide, or the model is damaged");
  });
}

int64_t mtp_model_components(const mtp_model* model) { return model->readout.components; }

int mtp_model_tensor(const mtp_model* model, int64_t single, int64_t n_threads, int64_t n_local, int64_t n_all,
                     const int32_t* species, const double* positions, const int64_t* start, const int32_t* count,
                     const int32_t* neighbour, double* total, double* atomic, char* message,
                     int64_t message_size) {
  return mtp::guarded(message, message_size, [&] {
    const int64_t n = model->readout.components;
    if (!n) throw std::runtime_error("the model predicts energies, not a tensor");
    mtp::Work work = mtp::inference(*model, single, n_threads, n_local, n_all, species, positions, start, count,
                                    neighbour);
    work.tensors = atomic;
    mtp::run_chosen(work);
    std::fill(total, total + n, 0.0);
    for (int64_t i = 0; i < n_local; i++)
      for (int64_t k = 0; k < n; k++) {
        const int32_t z = species[i];
        double& value = atomic[n * i + k];
        const double shift = model->readout.isotropic && k < 3 ? model->shifts[z] : 0.0;
        value = model->selected[z] ? value - model->offset[single ? 1 : 0][n * z + k] + shift : 0.0;
        total[k] += value;
      }
    double finite = 0;
    for (int64_t k = 0; k < n; k++) finite += total[k] - total[k];
    if (!(finite == 0))
      throw std::runtime_error("the tensor is not finite: atoms coincide, or the model is damaged");
  });
}

}  // extern "C"
