/* A switch in user space, for kernels without netem: one TAP device in each host's network namespace.
 *
 *   switch CONTROL_SOCKET NAMESPACE/INTERFACE ...
 *
 * Ports are numbered in the order of the arguments. A frame crosses the sender's link (its rate, then its delay), the
 * switch, which costs nothing, and the receiver's link. A frame is handed over when the clock says so, but the times of
 * those behind it are counted from when it was due: what is late by some microseconds makes nothing else late.
 *
 * Commands are datagrams on the control socket, PORT is a number or * for all; the answer is "ok", or what is wrong:
 *
 *   set PORT KEY VALUE ...   delay_us, jitter_us (up to so much more, each way), rate_mbit (0: as fast as it goes),
 *                            queue_kb (of a link with a rate), loss_percent, cut (1: frames vanish in silence),
 *                            carrier (0: as if unplugged), group (ports of one group hear each other, no others),
 *                            air (n > 0: all ports of this n share one medium, as wireless devices do),
 *                            mdns (0: UDP port 5353 does not cross, as with access points that keep devices apart)
 *   block PORT NUMBER        TCP and UDP to this port number of the host behind PORT vanish, as by its firewall
 *   unblock PORT             none is blocked any more
 *   capture PATH             all frames that hosts send go to this file as well, as tcpdump writes them; without PATH no more
 *   stats                    JSON: counters, and how late frames were handed over since the last time
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <sched.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum {
    MAX_PORTS = 64,
    MAX_FRAME = 2048,
    MAX_STATIONS = 1024,
    MAX_AIRS = 8,
    MAX_BLOCKED = 8,
    ETHERNET = 14,        /* bytes before the packet */
    ON_THE_WIRE = 24,     /* preamble, check sequence and gap: bytes that only the rate sees */
    FRAMES_A_TURN = 64,   /* read from one port before the clock is looked at again */
    LATE_SLOTS = 4096,    /* of the histogram, a microsecond each */
    MDNS = 5353,
    CONTROL = MAX_PORTS,  /* in epoll, where ports have their numbers */
};

typedef int64_t ns_t;

/* One direction of a link: when it can take the next frame, and when the last one leaves it. */
struct lane {
    ns_t free_at, last_end;
};

struct port {
    char name[192];
    int fd;
    struct lane up, down;
    ns_t delay, jitter;
    double ns_per_byte, loss;
    int64_t queue_bytes;
    int cut, carrier, group, air, mdns;
    uint16_t blocked[MAX_BLOCKED];
    int n_blocked;
    uint64_t frames_in, frames_out, lost;
};

struct frame {
    ns_t due;
    uint64_t order; /* of frames that are due at once */
    int port, at_switch, length; /* at_switch: came from `port`; else goes out of it */
    uint8_t bytes[MAX_FRAME];
};

static struct port ports[MAX_PORTS];
static int n_ports;
static struct lane airs[MAX_AIRS];
static struct { uint8_t mac[6]; int port; } stations[MAX_STATIONS];
static int n_stations;
static uint32_t late_us[LATE_SLOTS], n_handed;
static FILE *capture;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static ns_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* --- frames that wait for their time: a heap; and those that are free */

static struct frame **heap, **spare;
static int n_heap, n_spare, room;
static uint64_t n_ordered;

static struct frame *take(void)
{
    if (n_spare) return spare[--n_spare];
    if (n_heap + 2 > room) {
        room = room ? 2 * room : 1024;
        heap = realloc(heap, room * sizeof *heap);
        spare = realloc(spare, room * sizeof *spare);
    }
    struct frame *frame = malloc(sizeof *frame);
    if (!heap || !spare || !frame) die("memory");
    return frame;
}

static void give_back(struct frame *frame) { spare[n_spare++] = frame; }

static int before(const struct frame *a, const struct frame *b)
{
    return a->due != b->due ? a->due < b->due : a->order < b->order;
}

static void push(struct frame *frame)
{
    frame->order = n_ordered++;
    int i = n_heap++;
    for (; i && before(frame, heap[(i - 1) / 2]); i = (i - 1) / 2) heap[i] = heap[(i - 1) / 2];
    heap[i] = frame;
}

static struct frame *pop(void)
{
    struct frame *first = heap[0], *last = heap[--n_heap];
    int i = 0;
    for (int child = 1; child < n_heap; child = 2 * i + 1) {
        if (child + 1 < n_heap && before(heap[child + 1], heap[child])) child++;
        if (!before(heap[child], last)) break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = last;
    return first;
}

/* --- what a link does to a frame */

static double chance(void) { return random() / ((double)RAND_MAX + 1); }

/* When a frame that comes at `at` has crossed the link; -1 if it is lost. Frames of one lane keep their order. */
static ns_t cross(struct port *link, struct lane *lane, ns_t at, int length)
{
    if (link->cut || !link->carrier || chance() * 100 < link->loss) return link->lost++, -1;
    struct lane *medium = link->air ? &airs[link->air] : lane;
    ns_t begin = at > medium->free_at ? at : medium->free_at;
    if (link->ns_per_byte > 0) {
        if ((begin - at) / link->ns_per_byte > link->queue_bytes) return link->lost++, -1;
        begin += (length + ON_THE_WIRE) * link->ns_per_byte;
        medium->free_at = begin;
    }
    ns_t end = begin + link->delay + (ns_t)(link->jitter * chance());
    if (end < lane->last_end) end = lane->last_end;
    return lane->last_end = end;
}

/* The port number that a TCP or UDP packet is for; -1 if it is neither, or not the first fragment. */
static int destination(const struct frame *frame, int *is_udp)
{
    const uint8_t *packet = frame->bytes + ETHERNET;
    int length = frame->length - ETHERNET, type = frame->bytes[12] << 8 | frame->bytes[13], protocol, header;
    if (type == 0x0800 && length >= 20 && !(packet[6] & 0x1f) && !packet[7]) {
        protocol = packet[9];
        header = 4 * (packet[0] & 15);
    } else if (type == 0x86dd && length >= 40) {
        protocol = packet[6];
        header = 40;
    } else {
        return -1;
    }
    *is_udp = protocol == 17;
    if ((protocol != 6 && protocol != 17) || length < header + 4) return -1;
    return packet[header + 2] << 8 | packet[header + 3];
}

static int passes(const struct frame *frame, const struct port *from, const struct port *to)
{
    int is_udp = 0, number = destination(frame, &is_udp);
    if (number == MDNS && is_udp && !(from->mdns && to->mdns)) return 0;
    for (int i = 0; i < to->n_blocked; i++)
        if (number == to->blocked[i]) return 0;
    return from->group == to->group;
}

/* --- the switch */

static int *port_of(const uint8_t *mac)
{
    for (int i = 0; i < n_stations; i++)
        if (!memcmp(stations[i].mac, mac, 6)) return &stations[i].port;
    return NULL;
}

static void learn(const uint8_t *mac, int port)
{
    int *known = port_of(mac);
    if (known) {
        *known = port;
        return;
    }
    if (n_stations == MAX_STATIONS) n_stations = 0; /* forgotten ones are flooded until they speak again */
    memcpy(stations[n_stations].mac, mac, 6);
    stations[n_stations++].port = port;
}

static void start_capture(const char *path)
{
    static const uint32_t header[6] = {0xa1b23c4d, 4 << 16 | 2, 0, 0, MAX_FRAME, 1}; /* times in ns; Ethernet */
    if (capture) fclose(capture);
    capture = path ? fopen(path, "wb") : NULL;
    if (capture) fwrite(header, sizeof header, 1, capture);
}

static void keep(const struct frame *frame)
{
    ns_t at = now();
    uint32_t header[4] = {at / 1000000000, at % 1000000000, frame->length, frame->length};
    fwrite(header, sizeof header, 1, capture);
    fwrite(frame->bytes, frame->length, 1, capture);
}

static void receive(int number)
{
    struct port *from = &ports[number];
    for (int i = 0; i < FRAMES_A_TURN; i++) {
        struct frame *frame = take();
        frame->length = read(from->fd, frame->bytes, MAX_FRAME);
        if (frame->length < ETHERNET) {
            give_back(frame);
            return;
        }
        from->frames_in++;
        if (capture) keep(frame);
        frame->due = cross(from, &from->up, now(), frame->length);
        if (frame->due < 0) {
            give_back(frame);
            continue;
        }
        learn(frame->bytes + 6, number);
        frame->port = number;
        frame->at_switch = 1;
        push(frame);
    }
}

static void forward(struct frame *frame)
{
    int *only = frame->bytes[0] & 1 ? NULL : port_of(frame->bytes); /* an odd first byte: for a group, or for all */
    for (int to = 0; to < n_ports; to++) {
        if (to == frame->port || (only && *only != to) || !passes(frame, &ports[frame->port], &ports[to])) continue;
        ns_t due = cross(&ports[to], &ports[to].down, frame->due, frame->length);
        if (due < 0) continue;
        struct frame *copy = take();
        copy->due = due;
        copy->port = to;
        copy->at_switch = 0;
        copy->length = frame->length;
        memcpy(copy->bytes, frame->bytes, frame->length);
        push(copy);
    }
    give_back(frame);
}

static void hand_over(struct frame *frame)
{
    struct port *to = &ports[frame->port];
    ns_t late = (now() - frame->due) / 1000;
    late_us[late < LATE_SLOTS ? late : LATE_SLOTS - 1]++;
    n_handed++;
    if (write(to->fd, frame->bytes, frame->length) == frame->length) to->frames_out++;
    else to->lost++;
    give_back(frame);
}

/* --- commands */

static int set(struct port *port, const char *key, double value)
{
    unsigned on = value != 0;
    if (!strcmp(key, "delay_us")) port->delay = value * 1000;
    else if (!strcmp(key, "jitter_us")) port->jitter = value * 1000;
    else if (!strcmp(key, "rate_mbit")) port->ns_per_byte = value > 0 ? 8000 / value : 0;
    else if (!strcmp(key, "queue_kb")) port->queue_bytes = value * 1000;
    else if (!strcmp(key, "loss_percent")) port->loss = value;
    else if (!strcmp(key, "cut")) port->cut = on;
    else if (!strcmp(key, "group")) port->group = value;
    else if (!strcmp(key, "mdns")) port->mdns = on;
    else if (!strcmp(key, "air") && value >= 0 && value < MAX_AIRS) port->air = value;
    else if (!strcmp(key, "carrier") && !ioctl(port->fd, TUNSETCARRIER, &on)) port->carrier = on;
    else return 0;
    return 1;
}

static int block(struct port *port, int number)
{
    if (port->n_blocked == MAX_BLOCKED || number < 1 || number > 65535) return 0;
    port->blocked[port->n_blocked++] = number;
    return 1;
}

static uint32_t late_quantile(double part)
{
    uint32_t seen = 0;
    for (int i = 0; i < LATE_SLOTS; i++)
        if ((seen += late_us[i]) > part * n_handed) return i;
    return 0;
}

static void append(char **end, char *limit, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int n = vsnprintf(*end, limit - *end, format, arguments);
    va_end(arguments);
    *end = n < limit - *end ? *end + n : limit - 1;
}

static void tell_stats(char *answer, size_t size)
{
    char *end = answer, *limit = answer + size;
    append(&end, limit, "{\"frames\": %u, \"late_p50_us\": %u, \"late_p99_us\": %u, \"ports\": [", n_handed,
           late_quantile(0.5), late_quantile(0.99));
    for (struct port *port = ports; port < ports + n_ports; port++)
        append(&end, limit, "%s{\"name\": \"%s\", \"frames_in\": %llu, \"frames_out\": %llu, \"lost\": %llu}",
               port == ports ? "" : ", ", port->name, (unsigned long long)port->frames_in,
               (unsigned long long)port->frames_out, (unsigned long long)port->lost);
    append(&end, limit, "]}");
    memset(late_us, 0, sizeof late_us);
    n_handed = 0;
}

/* `set`, `block` or `unblock` for one port; gives what is wrong, or NULL. */
static const char *change(struct port *port, const char *word, char *rest)
{
    if (!strcmp(word, "unblock")) return port->n_blocked = 0, NULL;
    if (!strcmp(word, "block")) return rest && block(port, atoi(rest)) ? NULL : "no such port number, or too many";
    if (strcmp(word, "set")) return "no such command";
    for (char *key; (key = strsep(&rest, " "));) {
        char *value = strsep(&rest, " ");
        if (!value || !set(port, key, atof(value))) return key;
    }
    return NULL;
}

static void obey(char *text, char *answer, size_t size)
{
    char *rest = text, *word = strsep(&rest, " "), *which = strsep(&rest, " ");
    if (!strcmp(word, "stats")) {
        tell_stats(answer, size);
        return;
    }
    if (!strcmp(word, "capture")) {
        start_capture(which);
        snprintf(answer, size, which && !capture ? "the file cannot be written" : "ok");
        return;
    }
    snprintf(answer, size, "no such port");
    for (int i = 0; which && i < n_ports; i++) {
        if (strcmp(which, "*") && atoi(which) != i) continue;
        char words[1024];
        snprintf(words, sizeof words, "%s", rest ? rest : "");
        const char *fault = change(&ports[i], word, rest ? words : NULL);
        snprintf(answer, size, "%s", fault ? fault : "ok");
        if (fault) return;
    }
}

static void answer_command(int control)
{
    static char text[1024], answer[32768];
    struct sockaddr_un from;
    socklen_t size = sizeof from;
    ssize_t length = recvfrom(control, text, sizeof text - 1, 0, (struct sockaddr *)&from, &size);
    if (length < 0) return;
    text[length] = 0;
    obey(text, answer, sizeof answer);
    sendto(control, answer, strlen(answer), 0, (struct sockaddr *)&from, size);
}

/* --- start */

static int open_tap(const char *where)
{
    char path[256];
    const char *slash = strchr(where, '/');
    if (!slash) {
        fprintf(stderr, "%s is not NAMESPACE/INTERFACE\n", where);
        exit(2);
    }
    snprintf(path, sizeof path, "/run/netns/%.*s", (int)(slash - where), where);
    int own = open("/proc/self/ns/net", O_RDONLY), there = open(path, O_RDONLY);
    if (own < 0 || there < 0 || setns(there, CLONE_NEWNET)) die(path);
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI};
    snprintf(request.ifr_name, IFNAMSIZ, "%s", slash + 1);
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK);
    if (fd < 0 || ioctl(fd, TUNSETIFF, &request)) die(where);
    if (setns(own, CLONE_NEWNET)) die("back to the first namespace");
    close(own);
    close(there);
    return fd;
}

static void listen_to(int poll, int fd, uint32_t number)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = number};
    if (epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event)) die("epoll");
}

static int open_control(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address)) die(path);
    return fd;
}

static void be_punctual(void)
{
    struct sched_param priority = {.sched_priority = 40};
    prctl(PR_SET_TIMERSLACK, 1);
    if (mlockall(MCL_CURRENT | MCL_FUTURE)) perror("memory is not locked");
    if (sched_setscheduler(0, SCHED_FIFO, &priority)) perror("no real-time priority");
}

int main(int argc, char **argv)
{
    if (argc < 3 || argc > MAX_PORTS + 2) {
        fprintf(stderr, "usage: switch CONTROL_SOCKET NAMESPACE/INTERFACE ... (%d at most)\n", MAX_PORTS);
        return 2;
    }
    int poll = epoll_create1(0), control = open_control(argv[1]);
    listen_to(poll, control, CONTROL);
    for (char **name = argv + 2; *name; name++, n_ports++) {
        struct port *port = &ports[n_ports];
        *port = (struct port){.fd = open_tap(*name), .carrier = 1, .mdns = 1, .queue_bytes = 1 << 20};
        snprintf(port->name, sizeof port->name, "%s", *name);
        listen_to(poll, port->fd, n_ports);
    }
    be_punctual();
    puts("ready");
    fflush(stdout);
    for (;;) {
        while (n_heap && heap[0]->due <= now()) {
            struct frame *frame = pop();
            if (frame->at_switch) forward(frame);
            else hand_over(frame);
        }
        ns_t left = n_heap ? heap[0]->due - now() : 0;
        if (left < 0) left = 0;
        struct timespec timeout = {left / 1000000000, left % 1000000000};
        struct epoll_event events[MAX_PORTS];
        int n = epoll_pwait2(poll, events, MAX_PORTS, n_heap ? &timeout : NULL, NULL);
        for (int i = 0; i < n; i++) {
            if (events[i].data.u32 == CONTROL) answer_command(control);
            else receive(events[i].data.u32);
        }
    }
}
