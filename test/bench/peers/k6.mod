// Only to build one program by its exact version: package peers copies this file
// out of the tree, so that its dependencies never become ours.
module peer

go 1.26.0

require go.k6.io/k6 v1.8.1
