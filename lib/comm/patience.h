// How a thread waits for messages that it must look for itself. Not here: what it looks at.
#pragma once

namespace moe {

// Between two looks, `looks` of them so far: gives the processor away, and after some looks sleeps; sooner and longer when
// nobody waits for this thread (awaited), because then the processor belongs to whoever computes.
void rest_between_looks(int looks, bool awaited);

}  // namespace moe
