// The encoder's operators, for ONNX Runtime.
#ifndef EMBEDFLEET_OPERATORS_H
#define EMBEDFLEET_OPERATORS_H

// ef_domain makes the domain of operators called name for the runtime whose library this process has loaded from a
// path. It returns NULL, or what went wrong, to be freed.
char *ef_domain(const char *library, const char *name, void **domain);

// ef_add_domain makes a session's options (OrtSessionOptions) know the operators. The domain must outlive the
// sessions. It returns NULL, or what went wrong, to be freed.
char *ef_add_domain(void *options, void *domain);

#endif
