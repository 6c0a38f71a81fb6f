package queue

// What the tests outside of the package need; they may use the rooms that use this one.
const MaxFollowers = maxFollowers

var Accept = enqueue
