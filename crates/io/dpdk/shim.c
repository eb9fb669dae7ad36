/* What of DPDK is inline functions, macros and large structures, as plain functions and small structures.
 *
 * src/dpdk/sys.rs declares each of these again; the assertions at the end pin the shared layouts. A function that can fail
 * returns 0 or a negative errno value. One call moves one burst, so the price of the language boundary is paid per burst. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_prefetch.h>

/* Frames one call of tengate_transmit or tengate_receive takes at most. */
#define FRAMES_MAX 256
#define NAME_BYTES 64
#define LOG_BYTES 2048
/* Most objects a pool keeps for each thread, so that most bursts do not touch the ring the threads share. */
#define CACHE_OBJECTS 256u

/* One mbuf and where its bytes are: `len` of them in use, `room` to use at most. */
struct tengate_frame {
	struct rte_mbuf *mbuf;
	uint8_t *bytes;
	uint32_t len;
	uint32_t room;
};

struct tengate_received {
	uint16_t frames;
	uint16_t multi_segment;
	/* The pool could give no further buffer. */
	uint32_t exhausted;
};

struct tengate_port_config {
	uint16_t queue_pairs;
	uint16_t rx_descriptors;
	uint16_t tx_descriptors;
	uint16_t mtu;
};

struct tengate_port_info {
	uint64_t rx_offloads;
	uint64_t tx_offloads;
	uint64_t rss_types;
	int32_t socket;
	uint16_t queue_pairs_max;
	uint16_t mtu_max;
	uint16_t mtu;
	uint8_t mac[RTE_ETHER_ADDR_LEN];
};

struct tengate_port_stats {
	uint64_t received;
	uint64_t received_bytes;
	uint64_t sent;
	uint64_t sent_bytes;
	uint64_t missed;
	uint64_t receive_errors;
	uint64_t no_buffer;
	uint64_t send_errors;
};

struct tengate_link {
	uint32_t up;
	uint32_t mbits;
};

/* The end of what DPDK logged; the stream's lock guards it. */
static char log_tail[LOG_BYTES];
static size_t log_len;
static FILE *log_stream;

static ssize_t
keep_log(void *cookie, const char *text, size_t len)
{
	size_t take = len < LOG_BYTES ? len : LOG_BYTES;
	size_t keep = log_len < LOG_BYTES - take ? log_len : LOG_BYTES - take;

	(void)cookie;
	memmove(log_tail, log_tail + log_len - keep, keep);
	memcpy(log_tail + keep, text + len - take, take);
	log_len = keep + take;
	return len;
}

int
tengate_eal_init(int argc, char **argv)
{
	cookie_io_functions_t keep = { .write = keep_log };

	log_stream = fopencookie(NULL, "w", keep);
	if (log_stream == NULL)
		return -ENOMEM;
	setvbuf(log_stream, NULL, _IONBF, 0);
	rte_openlog_stream(log_stream);
	if (rte_eal_init(argc, argv) < 0)
		return rte_errno > 0 ? -rte_errno : -EIO;
	return 0;
}

/* Moves the end of the log to `text`, at most LOG_BYTES; returns how many bytes. */
size_t
tengate_log_take(char *text)
{
	size_t len;

	if (log_stream == NULL)
		return 0;
	flockfile(log_stream);
	len = log_len;
	memcpy(text, log_tail, len);
	log_len = 0;
	funlockfile(log_stream);
	return len;
}

int
tengate_device_probe(const char *device)
{
	return rte_dev_probe(device);
}

/* Gives the calling thread its own caches in every pool; nothing when it has them already. */
int
tengate_thread_register(void)
{
	if (rte_lcore_id() != LCORE_ID_ANY)
		return 0;
	return rte_thread_register() == 0 ? 0 : -rte_errno;
}

void
tengate_thread_unregister(void)
{
	rte_thread_unregister();
}

/* The first port from `from` on, and its name; RTE_MAX_ETHPORTS when there is none. */
uint16_t
tengate_port_next(uint16_t from, char *name)
{
	uint64_t next = rte_eth_find_next(from);

	if (next >= RTE_MAX_ETHPORTS || rte_eth_dev_get_name_by_port(next, name) != 0)
		return RTE_MAX_ETHPORTS;
	return next;
}

int
tengate_port_find(const char *name, uint16_t *port)
{
	return rte_eth_dev_get_port_by_name(name, port);
}

int
tengate_port_info(uint16_t port, struct tengate_port_info *out)
{
	struct rte_eth_dev_info info;
	struct rte_ether_addr mac;
	int result = rte_eth_dev_info_get(port, &info);

	if (result != 0)
		return result;
	result = rte_eth_macaddr_get(port, &mac);
	if (result != 0)
		return result;
	memcpy(out->mac, mac.addr_bytes, sizeof(out->mac));
	result = rte_eth_dev_get_mtu(port, &out->mtu);
	if (result != 0)
		return result;
	out->rx_offloads = info.rx_offload_capa;
	out->tx_offloads = info.tx_offload_capa;
	out->rss_types = info.flow_type_rss_offloads;
	out->socket = rte_eth_dev_socket_id(port);
	out->queue_pairs_max = RTE_MIN(info.max_rx_queues, info.max_tx_queues);
	out->mtu_max = info.max_mtu;
	return 0;
}

int
tengate_pool_create(const char *name, uint32_t buffers, uint16_t data_bytes, int socket,
		struct rte_mempool **pool)
{
	/* A cache must not be able to hoard the pool: DPDK's own rule is two thirds at most, a quarter is milder. */
	uint32_t cache = RTE_MIN(CACHE_OBJECTS, buffers / 4);

	*pool = rte_pktmbuf_pool_create(name, buffers, cache, 0,
			RTE_PKTMBUF_HEADROOM + data_bytes, socket);
	return *pool != NULL ? 0 : -rte_errno;
}

void
tengate_pool_free(struct rte_mempool *pool)
{
	rte_mempool_free(pool);
}

uint32_t
tengate_pool_available(const struct rte_mempool *pool)
{
	return rte_mempool_avail_count(pool);
}

/* Configures the port; pools[i] feeds queue i. What was asked of descriptors is fitted to the device. */
int
tengate_port_start(uint16_t port, const struct tengate_port_config *config,
		struct rte_mempool **pools)
{
	struct rte_eth_dev_info info;
	struct rte_eth_conf conf = { 0 };
	uint16_t rx = config->rx_descriptors, tx = config->tx_descriptors;
	int result = rte_eth_dev_info_get(port, &info);

	if (result != 0)
		return result;
	conf.rxmode.mtu = config->mtu;
	/* Frames have one segment, one owner and their queue's pool, which is what this offload asks for. */
	conf.txmode.offloads = info.tx_offload_capa & RTE_ETH_TX_OFFLOAD_MBUF_FAST_FREE;
	conf.rx_adv_conf.rss_conf.rss_hf =
		info.flow_type_rss_offloads & (RTE_ETH_RSS_IP | RTE_ETH_RSS_TCP);
	if (config->queue_pairs > 1 && conf.rx_adv_conf.rss_conf.rss_hf != 0)
		conf.rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
	result = rte_eth_dev_configure(port, config->queue_pairs, config->queue_pairs, &conf);
	if (result == 0)
		result = rte_eth_dev_adjust_nb_rx_tx_desc(port, &rx, &tx);
	for (uint16_t queue = 0; result == 0 && queue < config->queue_pairs; queue++) {
		int socket = rte_eth_dev_socket_id(port);

		result = rte_eth_rx_queue_setup(port, queue, rx, socket, NULL, pools[queue]);
		if (result == 0)
			result = rte_eth_tx_queue_setup(port, queue, tx, socket, NULL);
	}
	if (result == 0)
		result = rte_eth_dev_start(port);
	if (result != 0)
		return result;
	/* Neighbour discovery of IPv6 is multicast. A device that cannot filter passes all of it anyway. */
	(void)rte_eth_allmulticast_enable(port);
	return 0;
}

void
tengate_port_close(uint16_t port)
{
	(void)rte_eth_dev_stop(port);
	(void)rte_eth_dev_close(port);
}

int
tengate_port_link(uint16_t port, struct tengate_link *out)
{
	struct rte_eth_link link;
	int result = rte_eth_link_get_nowait(port, &link);

	if (result != 0)
		return result;
	out->up = link.link_status == RTE_ETH_LINK_UP;
	out->mbits = link.link_speed == RTE_ETH_SPEED_NUM_UNKNOWN ? 0 : link.link_speed;
	return 0;
}

int
tengate_port_stats(uint16_t port, struct tengate_port_stats *out)
{
	struct rte_eth_stats stats;
	int result = rte_eth_stats_get(port, &stats);

	if (result != 0)
		return result;
	*out = (struct tengate_port_stats) {
		.received = stats.ipackets,
		.received_bytes = stats.ibytes,
		.sent = stats.opackets,
		.sent_bytes = stats.obytes,
		.missed = stats.imissed,
		.receive_errors = stats.ierrors,
		.no_buffer = stats.rx_nombuf,
		.send_errors = stats.oerrors,
	};
	return 0;
}

/* Whether the calling thread could get no buffer. Drivers for software devices do not count that themselves. */
static bool
exhausted(struct rte_mempool *pool)
{
	struct rte_mempool_cache *cache = rte_mempool_default_cache(pool, rte_lcore_id());

	return (cache == NULL || cache->len == 0) &&
		rte_mempool_get_ops(pool->ops_index)->get_count(pool) == 0;
}

/* Receives at most `max` frames of one segment each; frames of several are freed and counted. */
struct tengate_received
tengate_receive(uint16_t port, uint16_t queue, struct rte_mempool *pool,
		struct tengate_frame *frames, uint16_t max)
{
	struct rte_mbuf *mbufs[FRAMES_MAX];
	struct tengate_received received = { 0 };
	uint16_t count = rte_eth_rx_burst(port, queue, mbufs, RTE_MIN(max, FRAMES_MAX));

	for (uint16_t i = 0; i < count; i++) {
		struct rte_mbuf *mbuf = mbufs[i];
		struct tengate_frame *frame;

		if (unlikely(mbuf->nb_segs != 1)) {
			rte_pktmbuf_free(mbuf);
			received.multi_segment++;
			continue;
		}
		frame = &frames[received.frames++];
		frame->mbuf = mbuf;
		frame->bytes = rte_pktmbuf_mtod(mbuf, uint8_t *);
		frame->len = frame->room = rte_pktmbuf_data_len(mbuf);
		rte_prefetch0(frame->bytes);
	}
	if (count < max)
		received.exhausted = exhausted(pool);
	return received;
}

/* Takes `count` empty buffers, all or none. */
int
tengate_allocate(struct rte_mempool *pool, struct tengate_frame *frames, uint16_t count)
{
	struct rte_mbuf *mbufs[FRAMES_MAX];

	if (count > FRAMES_MAX)
		return -EINVAL;
	if (rte_pktmbuf_alloc_bulk(pool, mbufs, count) != 0)
		return -ENOMEM;
	for (uint16_t i = 0; i < count; i++) {
		frames[i].mbuf = mbufs[i];
		frames[i].bytes = rte_pktmbuf_mtod(mbufs[i], uint8_t *);
		frames[i].len = 0;
		frames[i].room = rte_pktmbuf_tailroom(mbufs[i]);
	}
	return 0;
}

/* Hands frames to the device in order; the first so many as returned are its own from then on. */
uint16_t
tengate_transmit(uint16_t port, uint16_t queue, const struct tengate_frame *frames, uint16_t count)
{
	struct rte_mbuf *mbufs[FRAMES_MAX];

	count = RTE_MIN(count, FRAMES_MAX);
	for (uint16_t i = 0; i < count; i++) {
		mbufs[i] = frames[i].mbuf;
		mbufs[i]->data_len = frames[i].len;
		mbufs[i]->pkt_len = frames[i].len;
	}
	return rte_eth_tx_burst(port, queue, mbufs, count);
}

/* Gives frames back to the pool they are of. */
void
tengate_free(const struct tengate_frame *frames, size_t count)
{
	struct rte_mbuf *mbufs[FRAMES_MAX];

	while (count > 0) {
		unsigned int some = RTE_MIN(count, (size_t)FRAMES_MAX);

		for (unsigned int i = 0; i < some; i++)
			mbufs[i] = frames[i].mbuf;
		rte_pktmbuf_free_bulk(mbufs, some);
		frames += some;
		count -= some;
	}
}

_Static_assert(sizeof(struct tengate_frame) == 24, "as Frame in sys.rs");
_Static_assert(sizeof(struct tengate_received) == 8, "as Received in sys.rs");
_Static_assert(sizeof(struct tengate_port_config) == 8, "as RawConfig in sys.rs");
_Static_assert(sizeof(struct tengate_port_info) == 40, "as RawInfo in sys.rs");
_Static_assert(sizeof(struct tengate_port_stats) == 64, "as RawStats in sys.rs");
_Static_assert(sizeof(struct tengate_link) == 8, "as RawLink in sys.rs");
_Static_assert(NAME_BYTES == RTE_ETH_NAME_MAX_LEN, "as NAME_BYTES in sys.rs");
_Static_assert(RTE_MAX_ETHPORTS <= 32, "as PORTS_MAX in sys.rs");
_Static_assert(LOG_BYTES == 2048, "as LOG_BYTES in sys.rs");
