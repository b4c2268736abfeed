// mixed_in() in a unit of its own, for link-time optimization across units.
#define MIXED_DEFINITION
#include "mixed.h"
