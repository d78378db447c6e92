// Package chart draws the pictures of a report: SVG made to stand inside an HTML
// page, and sparklines for a terminal. It also writes numbers the way people read
// them, so that a picture and the table beside it never disagree.
//
// A Plot has series over a common x axis; Lanes show states that lasted; an
// Interval is an estimate with its bounds against a target. All three are plain
// values with one method, SVG, whose answer depends on nothing but the value.
//
// A picture carries no colours of its own. It uses the classes and variables of
// CSS, which the page includes once and which know a light, a dark and a printed
// form. Nothing is told by colour alone: series differ in their dashes, states
// carry words, and every picture has a title and a description for those who hear it.
//
// Values that are missing are NaN: a line has a gap there. A value beyond all
// measure is +Inf: a mark at the upper edge.
package chart
