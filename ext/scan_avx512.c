#define SCAN_VARIANT avx512
#include "scan_kernel.h"
