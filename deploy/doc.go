// Package deploy holds what runs the fleet in containers and watches it: Redis's configuration, Prometheus's rules,
// Grafana's dashboard, an example for KEDA. docker-compose.yml and the Dockerfile are at the root, where tools look
// for them.
//
// There is no code here. The tests are the point: they read every file with the library of the tool that will read
// it, run each service of the Compose file as the file says, on this machine and without Docker, and hold names of
// series, flags and sections of the documentation against what the roles really have.
package deploy
