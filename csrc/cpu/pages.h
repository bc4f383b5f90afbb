// Memory that the system has promised and not given yet: its pages come one by one as they are first written to.
#pragma once

#include "cpu/problem.h"

namespace pyhar {

// Whether the system has yet to give the pages of a tensor of `channels`, if that is large. Where it can give huge ones,
// it is asked for them, which halves the time. Such memory should not be written past the caches: the system clears
// pages in them.
bool untouched(const Map& map, const Sizes& size, std::int64_t channels);

}  // namespace pyhar
