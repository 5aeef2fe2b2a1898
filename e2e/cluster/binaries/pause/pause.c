/* Holds namespaces open: the sandbox container of every pod, and process 1 of every node of the test cluster. */
#include <signal.h>
#include <unistd.h>

static void stop(int signal) { _exit(128 + signal); }

int main(void) {
    signal(SIGCHLD, SIG_IGN); /* As process 1 it inherits orphans; ignoring their end reaps them. */
    signal(SIGINT, stop);     /* Process 1 ignores every signal that it does not handle. */
    signal(SIGTERM, stop);
    for (;;) pause();
}
