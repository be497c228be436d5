#define GEAR_VARIANT avx512
#include "gear_kernel.h"
