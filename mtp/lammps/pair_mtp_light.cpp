/* LAMMPS pair style mtp/light: moment tensor potentials of mtp-train, evaluated by its own kernel.
 *
 * Copyright (C) The mtp-train developers
 *
 * This program is free software; you can redistribute it and/or modify it under the terms of the GNU
 * General Public License as published by the Free Software Foundation; either version 2 of the License,
 * or (at your option) any later version. It is distributed in the hope that it will be useful, but
 * WITHOUT ANY WARRANTY; without even the implied warranty of MERCHANTABILITY or FITNESS FOR A PARTICULAR
 * PURPOSE. See the GNU General Public License, LICENSE.GPL-2.0 beside this file, for more details.
 *
 * This file alone is under the GPL, because it derives from LAMMPS's classes. The kernel it calls, a
 * library of its own with a C interface (mtp/kernels/src/mtp.h), is under the MIT licence.
 *
 *   pair_style mtp/light [float64|float32] [head NAME]
 *   pair_coeff * * model.mtp.safetensors Si O
 */
#include <dlfcn.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "atom.h"
#include "comm.h"
#include "error.h"
#include "force.h"
#include "lammps.h"
#include "memory.h"
#include "mtp.h"
#include "neigh_list.h"
#include "neighbor.h"
#include "pair.h"
#include "update.h"
#include "utils.h"

#ifndef MTP_LIBRARY
#error "compile with -DMTP_LIBRARY=\"path of libmtp\" (python -m mtp.lammps does)"
#endif

// What LAMMPS's plugin loader reads (its lammpsplugin.h does not come with installed headers).
struct Registration {
  const char* version;
  const char* style;
  const char* name;
  const char* info;
  const char* author;
  void* (*create)(void*);
  void* handle;
};

namespace {

constexpr const char* kElements[] = {
    "",   "H",  "He", "Li", "Be", "B",  "C",  "N",  "O",  "F",  "Ne", "Na", "Mg", "Al", "Si", "P",  "S",
    "Cl", "Ar", "K",  "Ca", "Sc", "Ti", "V",  "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Zn", "Ga", "Ge", "As",
    "Se", "Br", "Kr", "Rb", "Sr", "Y",  "Zr", "Nb", "Mo", "Tc", "Ru", "Rh", "Pd", "Ag", "Cd", "In", "Sn",
    "Sb", "Te", "I",  "Xe", "Cs", "Ba", "La", "Ce", "Pr", "Nd", "Pm", "Sm", "Eu", "Gd", "Tb", "Dy", "Ho",
    "Er", "Tm", "Yb", "Lu", "Hf", "Ta", "W",  "Re", "Os", "Ir", "Pt", "Au", "Hg", "Tl", "Pb", "Bi", "Po",
    "At", "Rn", "Fr", "Ra", "Ac", "Th", "Pa", "U",  "Np", "Pu", "Am", "Cm", "Bk", "Cf", "Es", "Fm", "Md",
    "No", "Lr", "Rf", "Db", "Sg", "Bh", "Hs", "Mt", "Ds", "Rg", "Cn", "Nh", "Fl", "Mc", "Lv", "Ts", "Og"};
constexpr int64_t kCount = sizeof(kElements) / sizeof(kElements[0]);

// The functions of the kernel's library that are used here; `problem` says why there are none.
struct Kernel {
  decltype(&mtp_model_load) load = nullptr;
  decltype(&mtp_model_free) release = nullptr;
  decltype(&mtp_model_cutoff) cutoff = nullptr;
  decltype(&mtp_model_species) species = nullptr;
  decltype(&mtp_model_compute_graded) compute = nullptr;
  decltype(&mtp_model_has_grading) has_grading = nullptr;
  std::string problem;

  Kernel() {
    void* library = dlopen(MTP_LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
      problem = std::string("the kernel of mtp-train cannot be loaded, reinstall the package: ") + dlerror();
      return;
    }
    decltype(&mtp_abi) abi = nullptr;
    decltype(&mtp_isa) isa = nullptr;
    find(library, "mtp_abi", abi);
    find(library, "mtp_isa", isa);
    find(library, "mtp_model_load", load);
    find(library, "mtp_model_free", release);
    find(library, "mtp_model_cutoff", cutoff);
    find(library, "mtp_model_species", species);
    find(library, "mtp_model_compute_graded", compute);
    find(library, "mtp_model_has_grading", has_grading);
    if (!problem.empty() || abi() != MTP_ABI)
      problem = MTP_LIBRARY ": the kernel is not of the version that this pair style was compiled for";
    else if (std::string(isa()) == "none")
      problem = MTP_LIBRARY ": the kernel has no code for this processor, or not what MTP_ISA asks for";
  }

  template <class F>
  void find(void* library, const char* name, F& function) {
    function = reinterpret_cast<F>(dlsym(library, name));
    if (!function) problem = name;
  }
};

const Kernel& kernel() {
  static const Kernel found;
  return found;
}

}  // namespace

namespace LAMMPS_NS {

class PairMTPLight : public Pair {
 public:
  explicit PairMTPLight(class LAMMPS* lmp) : Pair(lmp) {
    manybody_flag = 1;
    one_coeff = 1;
    single_enable = 0;
    restartinfo = 0;
    no_virial_fdotr_compute = 1;             // the kernel's own virial
    centroidstressflag = CENTROID_NOTAVAIL;  // the virial of an atom is that of its own energy
    if (!kernel().problem.empty()) error->all(FLERR, "pair mtp/light: {}", kernel().problem);
  }

  ~PairMTPLight() override {
    if (copymode) return;
    kernel().release(model_);
    memory->destroy(setflag);
    memory->destroy(cutsq);
    // `map` and `elements` belong to Pair
  }

  void settings(int narg, char** arg) override {
    single_ = 0;
    head_.clear();
    for (int i = 0; i < narg; i++) {
      const std::string word = arg[i];
      if (word == "float32" || word == "float64") {
        single_ = word == "float32";
      } else if (word == "head" && i + 1 < narg) {
        head_ = arg[++i];
      } else {
        error->all(FLERR, "pair_style mtp/light: allowed are float64, float32 and head NAME, got {}", word);
      }
    }
  }

  void coeff(int narg, char** arg) override {
    if (narg < 4) error->all(FLERR, "pair_coeff of mtp/light: give * * MODEL and an element for each atom type");
    if (!allocated) allocate();
    map_element2type(narg - 3, arg + 3);
    load(arg[2]);
    std::vector<int32_t> of_element;
    for (int i = 0; i < nelements; i++) of_element.push_back(species_of(elements[i], arg[2]));
    for (int type = 1; type <= atom->ntypes; type++)
      species_[type] = map[type] < 0 ? -1 : of_element[map[type]];
  }

  void init_style() override {
    const std::string units = update->unit_style;
    if (units != "metal" && units != "real")
      error->all(FLERR, "pair mtp/light: units must be metal or real, got {}", units);
    unit_ = 1;
    if (units == "real") unit_ = utils::get_conversion_factor(utils::ENERGY, utils::METAL2REAL);
    if (!force->newton_pair) error->all(FLERR, "pair mtp/light needs newton pair on");
    neighbor->add_request(this, NeighConst::REQ_FULL);
  }

  double init_one(int i, int j) override {
    if (!setflag[i][j]) error->all(FLERR, "pair mtp/light: no element was given for atom types {} {}", i, j);
    return kernel().cutoff(model_);
  }

  void compute(int eflag, int vflag) override {
    ev_init(eflag, vflag);
    if (neighbor->ago == 0 || int(count_.size()) != atom->nlocal) copy_list();
    const int64_t n = atom->nlocal, n_all = n + atom->nghost;
    if (!n_all) return;
    assign_species(n_all);
    energies_.resize(n);
    forces_.resize(3 * n_all);
    if (vflag_atom) virials_.resize(6 * n);
    if (graded_) grades_.resize(std::max<int64_t>(n, 1));
    double energy, virial_now[6];
    char message[512];
    const int status = kernel().compute(
        model_, single_, comm->nthreads, n, n_all, point_species_.data(), atom->x[0], start_.data(), count_.data(),
        neighbours_.data(), &energy, energies_.data(), forces_.data(), virial_now,
        vflag_atom ? virials_.data() : nullptr, graded_ ? grades_.data() : nullptr, message, sizeof(message));
    if (status) error->one(FLERR, "pair mtp/light: {}", message);
    double* f = atom->f[0];
    for (int64_t i = 0; i < 3 * n_all; i++) f[i] += unit_ * forces_[i];
    tally(virial_now);
  }

  // For `fix pair`: grade is computed at the steps at which it sets this flag.
  void* extract(const char* name, int& dim) override {
    dim = 0;
    return std::string(name) == "grade_flag" ? &graded_ : nullptr;
  }

  void* extract_peratom(const char* name, int& columns) override {
    columns = 0;
    if (std::string(name) != "grade") return nullptr;
    if (model_ && !kernel().has_grading(model_))
      error->all(FLERR, "pair mtp/light: the model has no active set to compute grades from; `mtp grade` adds one");
    return grades_.data();
  }

  double memory_usage() override {
    return Pair::memory_usage() + 8.0 * (start_.capacity() + energies_.capacity() + forces_.capacity()) +
           8.0 * (virials_.capacity() + grades_.capacity()) +
           4.0 * (count_.capacity() + neighbours_.capacity() + point_species_.capacity());
  }

 private:
  mtp_model* model_ = nullptr;
  int64_t single_ = 0;
  std::string head_;
  double unit_ = 1;                // LAMMPS's unit of energy in eV
  std::vector<int32_t> species_;   // of each atom type; −1 where it is of another pair style
  std::vector<int64_t> start_;     // the neighbour list in one piece, until LAMMPS builds a new one
  std::vector<int32_t> count_, neighbours_, point_species_;
  std::vector<double> energies_, forces_, virials_;
  int graded_ = 0;  // whether grades are wanted at this step
  std::vector<double> grades_ = {0};

  void allocate() {
    allocated = 1;
    const int n = atom->ntypes + 1;
    memory->create(setflag, n, n, "pair:setflag");
    memory->create(cutsq, n, n, "pair:cutsq");
    map = new int[n];
    species_.assign(n, -1);
    for (int i = 0; i < n; i++)
      for (int j = 0; j < n; j++) setflag[i][j] = 0;
  }

  void load(const std::string& path) {
    if (utils::strmatch(path, "\\.mtp$") || utils::strmatch(path, "\\.almtp$"))
      error->all(FLERR, "pair mtp/light: {} is a file for pair_style mtp; convert it with: mtp convert {} {}.safetensors",
                 path, path, path);
    mtp_model* found = nullptr;
    char message[512];
    if (kernel().load(path.c_str(), head_.empty() ? nullptr : head_.c_str(), &found, message, sizeof(message)))
      error->all(FLERR, "pair mtp/light: {}", message);
    kernel().release(model_);
    model_ = found;
  }

  int32_t species_of(const std::string& element, const std::string& path) {
    std::vector<int64_t> numbers(kernel().species(model_, nullptr, 0));
    kernel().species(model_, numbers.data(), int64_t(numbers.size()));
    std::string known;
    for (size_t k = 0; k < numbers.size(); k++) {
      const std::string symbol = numbers[k] > 0 && numbers[k] < kCount ? kElements[numbers[k]] : "?";
      if (symbol == element) return int32_t(k);
      known += (k ? ", " : "") + symbol;
    }
    error->all(FLERR, "pair mtp/light: element {} is not in {}, which knows {}", element, path, known);
    return -1;
  }

  // LAMMPS keeps the list in pages, with bits for bonded neighbours in the indices.
  void copy_list() {
    const int n = atom->nlocal;
    start_.assign(n, 0);
    count_.assign(n, 0);
    int64_t total = 0;
    for (int k = 0; k < list->inum; k++) {
      const int i = list->ilist[k];
      start_[i] = total;
      count_[i] = list->numneigh[i];
      total += count_[i];
    }
    neighbours_.resize(total);
    for (int k = 0; k < list->inum; k++) {
      const int i = list->ilist[k];
      const int* from = list->firstneigh[i];
      int32_t* to = neighbours_.data() + start_[i];
      for (int j = 0; j < count_[i]; j++) to[j] = from[j] & NEIGHMASK;
    }
  }

  // Every step: some fixes change types without a new list. Atoms of other pair styles have no
  // neighbours here and are nobody's, so that their species does not matter.
  void assign_species(int64_t n_all) {
    point_species_.resize(n_all);
    for (int64_t i = 0; i < n_all; i++) point_species_[i] = std::max(species_[atom->type[i]], 0);
  }

  void tally(const double* virial_now) {
    constexpr int from[6] = {0, 1, 2, 5, 4, 3};  // xx yy zz xy xz yz from xx yy zz yz xz xy
    for (int k = 0; k < list->inum; k++) {
      const int i = list->ilist[k];
      if (eflag_global) eng_vdwl += unit_ * energies_[i];
      if (eflag_atom) eatom[i] += unit_ * energies_[i];
      if (vflag_atom)
        for (int c = 0; c < 6; c++) vatom[i][c] -= unit_ * virials_[6 * size_t(i) + from[c]];
    }
    if (vflag_global)
      for (int c = 0; c < 6; c++) virial[c] -= unit_ * virial_now[from[c]];
  }
};

}  // namespace LAMMPS_NS

static void* create(void* lammps) {
  return new LAMMPS_NS::PairMTPLight(static_cast<LAMMPS_NS::LAMMPS*>(lammps));
}

extern "C" void lammpsplugin_init(void* lammps, void* handle, void* register_plugin) {
  Registration plugin;
  plugin.version = static_cast<LAMMPS_NS::LAMMPS*>(lammps)->version;
  plugin.style = "pair";
  plugin.name = "mtp/light";
  plugin.info = "moment tensor potentials of mtp-train";
  plugin.author = "the mtp-train developers";
  plugin.create = create;
  plugin.handle = handle;
  reinterpret_cast<void (*)(Registration*, void*)>(register_plugin)(&plugin, lammps);
}
