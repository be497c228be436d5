#define GEAR_VARIANT baseline
#include "gear_kernel.h"
