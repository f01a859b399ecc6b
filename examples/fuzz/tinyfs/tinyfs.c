// SPDX-License-Identifier: GPL-2.0
/*
 * tinyfs.c: a read-only file system of one block, as a module of Linux 6.1, to be fuzzed.
 *
 *	0	"TINY"
 *	4	version: 1
 *	5	how many files
 *	6	files, one after the other: length of the name, name
 *
 * The bug: a name of more than 15 characters overflows the stack.
 */
#include <linux/buffer_head.h>
#include <linux/fs.h>
#include <linux/module.h>
#include <linux/slab.h>

#define TINY_MAGIC 0x594e4954
#define BLOCK 512
#define FILES 16

struct tiny_file {
	char name[16];
	const struct file_operations *operations;
};

struct tiny {
	struct tiny_file file[FILES];
	struct tree_descr tree[FILES + 3];
};

static ssize_t tiny_read(struct file *file, char __user *to, size_t size, loff_t *at)
{
	return simple_read_from_buffer(to, size, at, "tiny\n", 5);
}

static const struct file_operations tiny_operations = {
	.owner = THIS_MODULE,
	.read = tiny_read,
};

/* The name at `at`. Returns where it ends, or -EINVAL. */
static noinline int tiny_name(const u8 *block, unsigned int at, char to[16])
{
	u8 length = block[at];
	char name[16];

	if (!length || at + 1 + length > BLOCK)
		return -EINVAL;
	for (unsigned int i = 0; i < length; i++)
		name[i] = block[at + 1 + i];
	name[length] = 0;
	memcpy(to, name, sizeof(name));
	return at + 1 + length;
}

static int tiny_names(struct tiny *tiny, const u8 *block, unsigned int files)
{
	int at = 6;

	for (unsigned int i = 0; i < files; i++) {
		if (at >= BLOCK)
			return -EINVAL;
		at = tiny_name(block, at, tiny->file[i].name);
		if (at < 0)
			return at;
		tiny->file[i].operations = &tiny_operations;
	}
	return 0;
}

static int tiny_parse(struct tiny *tiny, const u8 *block)
{
	unsigned int files = block[5];
	int error;

	if (memcmp(block, "TINY", 4) || block[4] != 1 || files > FILES)
		return -EINVAL;
	error = tiny_names(tiny, block, files);
	if (error)
		return error;
	for (unsigned int i = 0; i < files; i++)
		tiny->tree[i + 2] = (struct tree_descr){
			tiny->file[i].name, tiny->file[i].operations, 0444 };
	tiny->tree[files + 2].name = "";
	return 0;
}

static int tiny_fill(struct super_block *super, void *data, int silent)
{
	struct buffer_head *head;
	struct tiny *tiny;
	int error = -EINVAL;

	if (!sb_set_blocksize(super, BLOCK))
		return -EINVAL;
	head = sb_bread(super, 0);
	if (!head)
		return -EIO;
	tiny = kzalloc(sizeof(*tiny), GFP_KERNEL);
	if (!tiny)
		error = -ENOMEM;
	else
		error = tiny_parse(tiny, head->b_data);
	if (!error)
		error = simple_fill_super(super, TINY_MAGIC, tiny->tree);
	kfree(tiny);
	brelse(head);
	return error;
}

static struct dentry *tiny_mount(struct file_system_type *type, int flags, const char *name, void *data)
{
	return mount_bdev(type, flags, name, data, tiny_fill);
}

static void tiny_kill(struct super_block *super)
{
	if (super->s_root)
		d_genocide(super->s_root);
	kill_block_super(super);
}

static struct file_system_type tiny_type = {
	.owner = THIS_MODULE,
	.name = "tiny",
	.mount = tiny_mount,
	.kill_sb = tiny_kill,
	.fs_flags = FS_REQUIRES_DEV,
};

static int __init tiny_init(void)
{
	return register_filesystem(&tiny_type);
}

static void __exit tiny_exit(void)
{
	unregister_filesystem(&tiny_type);
}

module_init(tiny_init);
module_exit(tiny_exit);
MODULE_DESCRIPTION("A file system to be fuzzed");
MODULE_LICENSE("GPL");
