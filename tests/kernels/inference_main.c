/* A caller of the kernel without Python or torch:
 *
 *     inference_main MODEL HEAD INPUT double|single
 *
 * HEAD "-" is the file's only one. INPUT: number of atoms; the cell's nine numbers and three flags of
 * periodicity; then atomic number, x, y, z of each atom. Prints energy, virial (6), and for each atom its
 * energy and force. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mtp.h"

static void stop(const char* message) {
  fprintf(stderr, "%s\n", message);
  exit(1);
}

static void* reserve(size_t n, size_t size) {
  void* memory = calloc(n + 1, size);
  if (!memory) stop("out of memory");
  return memory;
}

static double volume_of(double c[3][3]) {
  return c[0][0] * (c[1][1] * c[2][2] - c[1][2] * c[2][1]) + c[0][1] * (c[1][2] * c[2][0] - c[1][0] * c[2][2]) +
         c[0][2] * (c[1][0] * c[2][1] - c[1][1] * c[2][0]);
}

/* How many cells to look at along vector k: all whose atoms can be within reach, for atoms in the cell. */
static int repeats(double c[3][3], int k, double reach) {
  const double *a = c[(k + 1) % 3], *b = c[(k + 2) % 3];
  const double n[3] = {a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]};
  const double height = fabs(volume_of(c)) / sqrt(n[0] * n[0] + n[1] * n[1] + n[2] * n[2]);
  return (int)ceil(reach / height) + 1;
}

struct system {
  int64_t n, n_all;
  int pbc[3];
  double cell[3][3];
  int64_t* numbers;
  double* positions; /* (n_all, 3) */
  int32_t *species, *owner;
};

static struct system read_system(const char* path) {
  struct system s;
  long long n;
  FILE* file = fopen(path, "r");
  if (!file || fscanf(file, "%lld", &n) != 1 || n < 0) stop("no input");
  s.n = s.n_all = n;
  for (int k = 0; k < 9; k++)
    if (fscanf(file, "%lf", &s.cell[k / 3][k % 3]) != 1) stop("no cell");
  for (int k = 0; k < 3; k++)
    if (fscanf(file, "%d", &s.pbc[k]) != 1) stop("no periodicity");
  s.numbers = reserve(n, sizeof(int64_t));
  s.positions = reserve(3 * n, sizeof(double));
  for (int64_t i = 0; i < n; i++) {
    long long number;
    double* x = s.positions + 3 * i;
    if (fscanf(file, "%lld %lf %lf %lf", &number, x, x + 1, x + 2) != 4) stop("too few atoms");
    s.numbers[i] = number;
  }
  fclose(file);
  return s;
}

/* Every periodic image near the cell becomes a ghost, whether it is needed or not. */
static void add_ghosts(struct system* s, double reach) {
  int m[3];
  for (int k = 0; k < 3; k++) m[k] = s->pbc[k] ? repeats(s->cell, k, reach) : 0;
  const int64_t images = (2 * m[0] + 1) * (2 * m[1] + 1) * (2 * m[2] + 1);
  double* positions = reserve(3 * s->n * images, sizeof(double));
  s->owner = reserve(s->n * images, sizeof(int32_t));
  memcpy(positions, s->positions, 3 * s->n * sizeof(double));
  for (int64_t i = 0; i < s->n; i++) s->owner[i] = (int32_t)i;
  for (int a = -m[0]; a <= m[0]; a++)
    for (int b = -m[1]; b <= m[1]; b++)
      for (int c = -m[2]; c <= m[2]; c++)
        for (int64_t i = 0; (a || b || c) && i < s->n; i++, s->n_all++) {
          s->owner[s->n_all] = (int32_t)i;
          for (int k = 0; k < 3; k++)
            positions[3 * s->n_all + k] =
                s->positions[3 * i + k] + a * s->cell[0][k] + b * s->cell[1][k] + c * s->cell[2][k];
        }
  free(s->positions);
  s->positions = positions;
}

static void find_species(struct system* s, const mtp_model* model) {
  const int64_t known = mtp_model_species(model, NULL, 0);
  int64_t* numbers = reserve(known, sizeof(int64_t));
  mtp_model_species(model, numbers, known);
  s->species = reserve(s->n_all, sizeof(int32_t));
  for (int64_t i = 0; i < s->n_all; i++) {
    int32_t z = 0;
    while (z < known && numbers[z] != s->numbers[s->owner[i]]) z++;
    if (z == known) stop("an element is not in the potential");
    s->species[i] = z;
  }
  free(numbers);
}

/* The neighbours of atom i, in `list` where it is given. */
static int32_t neighbours_of(const struct system* s, int64_t i, double reach, int32_t* list) {
  int32_t count = 0;
  for (int64_t j = 0; j < s->n_all; j++) {
    double square = 0;
    for (int k = 0; k < 3; k++) square += pow(s->positions[3 * j + k] - s->positions[3 * i + k], 2);
    if (j == i || square > reach * reach) continue;
    if (list) list[count] = (int32_t)j;
    count++;
  }
  return count;
}

static void evaluate(const struct system* s, const mtp_model* model, int single) {
  const double reach = mtp_model_cutoff(model) + 0.3; /* a skin, as any list has */
  int64_t* start = reserve(s->n + 1, sizeof(int64_t));
  int32_t* count = reserve(s->n, sizeof(int32_t));
  for (int64_t i = 0; i < s->n; i++) {
    count[i] = neighbours_of(s, i, reach, NULL);
    start[i + 1] = start[i] + count[i];
  }
  int32_t* list = reserve(start[s->n], sizeof(int32_t));
  for (int64_t i = 0; i < s->n; i++) neighbours_of(s, i, reach, list + start[i]);
  double energy, virial[6], *energies = reserve(s->n, sizeof(double));
  double* forces = reserve(3 * s->n_all, sizeof(double));
  char message[256];
  if (mtp_model_compute(model, single, 1, s->n, s->n_all, s->species, s->positions, start, count, list,
                        &energy, energies, forces, virial, NULL, message, sizeof(message)))
    stop(message);
  mtp_ghosts_fold(s->n, s->n_all, s->owner, forces);
  printf("%.17g\n", energy);
  for (int k = 0; k < 6; k++) printf("%.17g ", virial[k]);
  for (int64_t i = 0; i < s->n; i++)
    printf("\n%.17g %.17g %.17g %.17g", energies[i], forces[3 * i], forces[3 * i + 1], forces[3 * i + 2]);
  printf("\n");
  free(start);
  free(count);
  free(list);
  free(energies);
  free(forces);
}

int main(int argc, char** argv) {
  mtp_model* model;
  char message[256];
  if (argc != 5) stop("inference_main MODEL HEAD INPUT double|single");
  if (mtp_abi() != MTP_ABI) stop("the library is of another version");
  if (mtp_model_load(argv[1], strcmp(argv[2], "-") ? argv[2] : NULL, &model, message, sizeof(message)))
    stop(message);
  struct system s = read_system(argv[3]);
  add_ghosts(&s, mtp_model_cutoff(model) + 0.3);
  find_species(&s, model);
  evaluate(&s, model, !strcmp(argv[4], "single"));
  free(s.numbers);
  free(s.positions);
  free(s.species);
  free(s.owner);
  mtp_model_free(model);
  return 0;
}
