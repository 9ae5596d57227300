/* C interface of the CPU kernel. A function with a `message` returns 0, or with one line in it: 1, or 2
 * when there is not enough memory.
 *
 * Lengths in Å, energies in eV. Arrays are contiguous, row-major; "real" is double or float as
 * job.single says. Species are indices 0 … n_species − 1. A null pointer means: not given / not wanted.
 */
#ifndef MTP_H
#define MTP_H
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

typedef struct mtp_basis mtp_basis;
typedef struct mtp_readout mtp_readout;
typedef struct mtp_model mtp_model;
typedef struct mtp_neighbours mtp_neighbours;

/* Number of this interface; raised whenever a function or a structure of it changes. A caller compares
 * what it was compiled with (MTP_ABI) with what the library says (mtp_abi) before any other call. */
#define MTP_ABI 5
int64_t mtp_abi(void);

/* Instruction set in use: "v4", "v3", "v2" or "plain"; "none" when MTP_ISA asks for one that is not there. */
const char* mtp_isa(void);

/* A moment table and its radial basis (mtp/basis/moment_table.py). basic: (n_basic, 4) radial index and
 * powers of x, y, z; products: (n_products, 4) left, right, factor, target. */
int mtp_basis_new(int64_t n_basic, const int64_t* basic, int64_t n_products, const int64_t* products,
                  int64_t n_scalars, const int64_t* scalars, int64_t n_moments, double r_min, double r_max,
                  int64_t n_q, mtp_basis** out, char* message, int64_t message_size);
void mtp_basis_free(mtp_basis* basis);
/* Multiply-adds per pair and per atom of one call, for benchmarks: pass 0 moments, 1 forces, 2 dual
 * moments, 3 coefficient gradient; per atom 4 products, 5 their reverse. */
void mtp_basis_cost(const mtp_basis* basis, int64_t* counts);

/* Energy of an atom from its invariants: x = (B − mean)·inverse_std; layers y = t·act(W x + b), added to
 * their input where the widths are equal; then linear weights of the last y and of the first x, without
 * bias, times scale.
 * n_layers 0: linear. weights: per layer W (widths[k], width before), b (widths[k]), and with `timestep`
 * where the widths are equal t (widths[k]), else t = 1; then the last weights. The first layer has
 * n_biases rows of biases: 1, or one for each species of the central atom.
 * activation: "tanh", "silu", "softplus", "gelu" (with tanh) or "sigmoid". */
int mtp_readout_new(int64_t n_scalars, const double* mean, const double* inverse_std, double scale,
                    int64_t n_layers, const int64_t* widths, const char* activation, int64_t timestep,
                    int64_t n_biases, const double* weights, mtp_readout** out, char* message,
                    int64_t message_size);
void mtp_readout_free(mtp_readout* readout);

/* One pass over a batch: what is computed follows from the pointers that are given.
 * Pairs of atom i: rows start[i] … start[i] + count[i] of neighbour and displacement; neighbour is relative
 * to base[i]. A tangent direction (v and strain, or d_dot, and c_dot) makes the pass a dual one: then
 * b_dot is available, the seeds are (b_dot_bar, b_bar) and c_bar, d_bar are those of Σ b_bar·B + b_dot_bar·Ḃ.
 * A pass that does not begin with the seeds its results need is an error; b_dot_bar is of dual passes.
 * With a readout the seeds follow from it: the pass is that of Σ E, or in a dual one of Σ energy_weight·E + Ė.
 */
typedef struct mtp_job {
  int64_t single, n_threads, n_atoms, n_species, n_rows;
  const int32_t* species;  /* (atoms) */
  const int64_t* start;    /* (atoms) */
  const int32_t* count;    /* (atoms) */
  const int32_t* base;     /* (atoms) */
  const int32_t* neighbour; /* (rows) */
  const void* displacement; /* (rows, 3) real */
  const void* c;            /* (S, S, n_radial, n_q) real */
  /* tangent direction */
  const void* c_dot;  /* like c */
  const void* d_dot;  /* (rows, 3) real */
  const void* v;      /* (atoms, 3) real: ḋ_ij = v_i − v_j + strain_i d_ij */
  const void* strain; /* (atoms, 6) real, xx yy zz yz xz xy */
  /* seeds of the reverse pass */
  const void* b_bar;     /* (atoms, n_scalars) real */
  const void* b_dot_bar; /* (atoms, n_scalars) real */
  const mtp_readout* readout;
  const double* energy_weight; /* (atoms) */
  /* results */
  void* b;      /* (atoms, n_scalars) real */
  void* b_dot;  /* (atoms, n_scalars) real */
  void* c_bar;  /* like c, but double */
  void* d_bar;  /* (rows, 3) real; rows of other atoms are left alone */
  double* forces; /* (atoms, 3) */
  double* virial; /* (atoms, 6) Σ_j d ⊗ ∂E_i/∂d, Voigt order */
  double* energies;    /* (atoms) of the readout */
  double* weights_bar; /* like the readout's weights: of Σ energy_weight·E + Ė */
  /* of each invariant by itself, without seed or tangent; they go together */
  double* column_forces; /* (atoms, 3, n_scalars) */
  double* column_virial; /* (atoms, 6, n_scalars) */
} mtp_job;
int mtp_run(const mtp_basis* basis, const mtp_job* job, char* message, int64_t message_size);

/* A potential ready for inference: coefficients (S, S, n_radial, n_q), one readout, and shifts (S): the
 * energies of isolated atoms, whatever the readout gives for them. Basis and readout are copied. */
int mtp_model_new(const mtp_basis* basis, const mtp_readout* readout, int64_t n_species, const double* c,
                  const double* shifts, mtp_model** out, char* message, int64_t message_size);
/* The same from a model file (mtp/model_file.py). head: name, or null when the file has one head. Species
 * are in the file's order (mtp_model_species), which is that of ascending atomic numbers. */
int mtp_model_load(const char* path, const char* head, mtp_model** out, char* message,
                   int64_t message_size);
void mtp_model_free(mtp_model* model);
double mtp_model_cutoff(const mtp_model* model);
/* Returns the number of species; writes the first `size` atomic numbers, of a model from a file. */
int64_t mtp_model_species(const mtp_model* model, int64_t* atomic_numbers, int64_t size);

/* Energy and derivatives of n_local atoms among n_all positions (ghosts last). Neighbour lists may be
 * longer than the cutoff (a skin); pairs beyond it do not count. Results are added to nothing: forces of
 * all n_all atoms are overwritten. energies: (n_local). virial: (6) Σ d ⊗ ∂E/∂d, Voigt order;
 * atom_virial: (n_local, 6), may be null. */
int mtp_model_compute(const mtp_model* model, int64_t single, int64_t n_threads, int64_t n_local,
                      int64_t n_all, const int32_t* species, const double* positions,
                      const int64_t* start, const int32_t* count, const int32_t* neighbour,
                      double* energy, double* energies, double* forces, double* virial,
                      double* atom_virial, char* message, int64_t message_size);

/* The same and, where grades is not null, the extrapolation grade of each of the n_local atoms
 * (mtp/grade.py); an error where the model has no active set. */
int mtp_model_compute_graded(const mtp_model* model, int64_t single, int64_t n_threads, int64_t n_local,
                             int64_t n_all, const int32_t* species, const double* positions,
                             const int64_t* start, const int32_t* count, const int32_t* neighbour,
                             double* energy, double* energies, double* forces, double* virial,
                             double* atom_virial, double* grades, char* message, int64_t message_size);

/* A model file's dipole or polarizability head: components is 3 (x y z) or 6 (xx yy zz yz xz xy), or 0 for
 * energies. total: (components); atomic: (n_local, components), the atoms' shares, in e·Å or Å³. A model
 * has either energies or a tensor; the other function is an error. */
int64_t mtp_model_components(const mtp_model* model);
int mtp_model_tensor(const mtp_model* model, int64_t single, int64_t n_threads, int64_t n_local, int64_t n_all,
                     const int32_t* species, const double* positions, const int64_t* start, const int32_t* count,
                     const int32_t* neighbour, double* total, double* atomic, char* message,
                     int64_t message_size);

/* Active sets for grades; models from files have them already where the file does. mean, inverse_std:
 * (S, n_scalars); inverse: (S, n_scalars, n_scalars). */
int mtp_model_set_grading(mtp_model* model, int64_t n_scalars, const double* mean, const double* inverse_std,
                          const double* inverse, char* message, int64_t message_size);
int mtp_model_has_grading(const mtp_model* model);

/* All neighbours within the cutoff of the atoms of a periodic system, for mtp_model_compute: first the atoms,
 * wrapped into the cell, then ghosts. Point i is atom owner[i] moved by image[i] cells; owner[i] = i for the
 * atoms themselves. cell: (3, 3), rows are its vectors; those that are not periodic do not matter. */
int mtp_neighbours_new(int64_t n_atoms, const double* positions, const double* cell, const int32_t* pbc,
                       double cutoff, int64_t n_threads, mtp_neighbours** out, char* message,
                       int64_t message_size);
void mtp_neighbours_free(mtp_neighbours* list);
void mtp_neighbours_size(const mtp_neighbours* list, int64_t* n_all, int64_t* n_pairs);
/* Copies of start, count: (atoms), neighbour: (pairs), owner: (n_all), image: (n_all, 3). */
void mtp_neighbours_get(const mtp_neighbours* list, int64_t* start, int32_t* count, int32_t* neighbour,
                        int32_t* owner, int32_t* image);

/* Positions (n_all, 3) of all points from those of the atoms: shift (n_all, 3) is image · cell. */
void mtp_ghosts_place(int64_t n_all, const int32_t* owner, const double* shift, const double* atoms,
                      double* positions);
/* Adds the forces on the ghosts, points from n_local on, to those on their owners. */
void mtp_ghosts_fold(int64_t n_local, int64_t n_all, const int32_t* owner, double* forces);

#ifdef __cplusplus
}
#endif
#endif
