#define GEAR_VARIANT avx2
#include "gear_kernel.h"
