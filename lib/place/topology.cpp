#include "lib/place/topology.h"
