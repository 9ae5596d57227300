// A neighbour list as it was found.
#pragma once
#include <cstdint>
#include <new>
#include <stdexcept>
#include <vector>

#include "mtp.h"

struct mtp_neighbours {
  std::vector<int32_t> count, owner, image;   // (atoms), (atoms + ghosts), (atoms + ghosts, 3)
  std::vector<std::vector<int32_t>> parts;    // neighbours of all atoms, one part after the other
};

namespace mtp {
void find_neighbours(int64_t n, const double* positions, const double* cell, const int32_t* pbc, double cutoff,
                     int64_t n_threads, mtp_neighbours& list);
}  // namespace mtp
