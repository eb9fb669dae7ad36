// DPDK's rte_hash under the load of main.rs beside this file: same keys, same order, same figures.
//
// `rte_hash <plain|ext> <keys>`. The number of entries and the length of keys are fixed when the table is made, all of its
// memory is taken then, and an insert beyond them fails; `ext` adds overflow buckets, so that the promised number fits.

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_hash.h>
#include <rte_lcore.h>
#include <rte_malloc.h>

#define KEY_LEN 20
#define BLOCK_LEN 1024
#define SCATTER UINT64_C(6700417)
#define SEED 0x7e96a7e0u

typedef uint8_t key_bytes[KEY_LEN];

static uint64_t nanos(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

// SplitMix64.
static uint64_t spread(uint64_t number)
{
	uint64_t bits = number * UINT64_C(0x9e3779b97f4a7c15);
	bits = (bits ^ (bits >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	bits = (bits ^ (bits >> 27)) * UINT64_C(0x94d049bb133111eb);
	return bits ^ (bits >> 31);
}

static void make_key(uint32_t number, key_bytes key)
{
	uint64_t high = spread(number), low = spread(high);
	for (unsigned at = 0; at < KEY_LEN; at++) {
		uint64_t digit = at < 16 ? high >> (4 * at) : low >> (4 * (at - 16));
		key[at] = (uint8_t)"0123456789abcdef"[digit & 15];
	}
}

static uint32_t scattered(uint32_t index, uint32_t keys)
{
	return (uint32_t)(index * SCATTER % keys);
}

static uint64_t resident_bytes(void)
{
	char line[256];
	uint64_t kilobytes = 0;
	FILE *status = fopen("/proc/self/status", "r");
	while (status && fgets(line, sizeof(line), status))
		if (sscanf(line, "VmRSS: %" SCNu64, &kilobytes) == 1)
			break;
	if (status)
		fclose(status);
	return kilobytes * 1024;
}

static int compare(const void *a, const void *b)
{
	uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;
	return (left > right) - (left < right);
}

static void figure(const char *name, double value)
{
	printf("%s %.3f\n", name, value);
}

static void fail(const char *what)
{
	fprintf(stderr, "rte_hash: %s: %s\n", what, rte_strerror(rte_errno));
	exit(1);
}

static key_bytes block[BLOCK_LEN];

// Makes keys `first` to `keys` or to the end of the block, and returns how many.
static uint32_t make_block(uint32_t first, uint32_t keys, int shuffled, uint32_t offset)
{
	uint32_t count = keys - first < BLOCK_LEN ? keys - first : BLOCK_LEN;
	for (uint32_t at = 0; at < count; at++) {
		uint32_t index = first + at;
		make_key((shuffled ? scattered(index, keys) : index) + offset, block[at]);
	}
	return count;
}

static void insert_all(struct rte_hash *table, uint32_t keys, uint32_t *inserts_ns)
{
	for (uint32_t first = 0; first < keys; first += BLOCK_LEN) {
		uint32_t count = make_block(first, keys, 0, 0);
		uint64_t before = nanos();
		for (uint32_t at = 0; at < count; at++) {
			void *value = (void *)(uintptr_t)(first + at);
			if (rte_hash_add_key_data(table, block[at], value) != 0)
				fail("an insert failed");
			uint64_t after = nanos();
			inserts_ns[first + at] = after - before < UINT32_MAX ? (uint32_t)(after - before) : UINT32_MAX;
			before = after;
		}
	}
}

static double lookup_all(struct rte_hash *table, uint32_t keys, int shuffled, uint32_t offset, uint64_t *found)
{
	uint64_t sum = 0;
	for (uint32_t first = 0; first < keys; first += BLOCK_LEN) {
		uint32_t count = make_block(first, keys, shuffled, offset);
		uint64_t start = nanos();
		for (uint32_t at = 0; at < count; at++) {
			void *value;
			*found += rte_hash_lookup_data(table, block[at], &value) >= 0;
		}
		sum += nanos() - start;
	}
	return (double)sum / keys;
}

// No lookup begins before the one before it has ended: its key stands where that one's value says.
static double lookup_alone(struct rte_hash *table, uint32_t keys)
{
	volatile uintptr_t hidden = 0;
	uintptr_t zero = hidden;
	uint64_t sum = 0;
	for (uint32_t first = 0; first < keys; first += BLOCK_LEN) {
		uint32_t count = make_block(first, keys, 1, 0);
		uintptr_t last = 0;
		uint64_t start = nanos();
		for (uint32_t at = 0; at < count; at++) {
			void *value = NULL;
			rte_hash_lookup_data(table, block[at + last], &value);
			last = (uintptr_t)value & zero;
		}
		hidden = last;
		sum += nanos() - start;
	}
	return (double)sum / keys;
}

static double remove_all(struct rte_hash *table, uint32_t keys, uint64_t *found)
{
	uint64_t sum = 0;
	for (uint32_t first = 0; first < keys; first += BLOCK_LEN) {
		uint32_t count = make_block(first, keys, 1, 0);
		uint64_t start = nanos();
		for (uint32_t at = 0; at < count; at++)
			*found += rte_hash_del_key(table, block[at]) >= 0;
		sum += nanos() - start;
	}
	return (double)sum / keys;
}

int main(int argc, char **argv)
{
	if (argc != 3) {
		fprintf(stderr, "rte_hash <plain|ext> <keys>\n");
		return 2;
	}
	int ext = strcmp(argv[1], "ext") == 0;
	uint32_t keys = (uint32_t)strtoul(argv[2], NULL, 10);
	char *eal[] = { argv[0], "--no-shconf", "--no-huge", "--no-pci", "--no-telemetry", "-l", "0",
			"--log-level", "error", "-m", "2048" };
	if (rte_eal_init((int)(sizeof(eal) / sizeof(*eal)), eal) < 0)
		fail("the EAL does not start");

	uint32_t *inserts_ns = malloc(keys * sizeof(*inserts_ns));
	if (!inserts_ns)
		fail("no memory");
	// Written to, so that no page of it is counted as the table's.
	memset(inserts_ns, 1, keys * sizeof(*inserts_ns));
	uint64_t memory_before = resident_bytes();
	struct rte_hash_parameters parameters = {
		.name = "uids",
		.entries = keys,
		.key_len = KEY_LEN,
		.hash_func_init_val = SEED,
		.socket_id = (int)rte_socket_id(),
		.extra_flag = ext ? RTE_HASH_EXTRA_FLAGS_EXT_TABLE : 0,
	};
	uint64_t start = nanos();
	struct rte_hash *table = rte_hash_create(&parameters);
	if (!table)
		fail("no table");
	figure("create_ms", (double)(nanos() - start) / 1e6);

	insert_all(table, keys, inserts_ns);
	uint64_t bytes = resident_bytes() - memory_before;
	uint64_t total_ns = 0, slow = 0, found = 0;
	for (uint32_t at = 0; at < keys; at++) {
		total_ns += inserts_ns[at];
		slow += inserts_ns[at] > 100000;
	}
	qsort(inserts_ns, keys, sizeof(*inserts_ns), compare);
	figure("insert_ns", (double)total_ns / keys);
	figure("insert_p9999_us", inserts_ns[keys / 10000 * 9999] / 1e3);
	figure("insert_worst_us", inserts_ns[keys - 1] / 1e3);
	figure("inserts_over_100_us", (double)slow);
	figure("hit_ns", lookup_all(table, keys, 1, 0, &found));
	figure("miss_ns", lookup_all(table, keys, 0, keys, &found));
	figure("hit_alone_ns", lookup_alone(table, keys));
	figure("remove_ns", remove_all(table, keys, &found));
	figure("bytes_per_key", (double)bytes / keys);
	rte_hash_free(table);
	if (found != 2 * (uint64_t)keys) {
		fprintf(stderr, "rte_hash: the table lost keys or made some up\n");
		return 1;
	}
	return 0;
}
