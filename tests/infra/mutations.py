"""Security defaults of the Terraform modules, each with the change that takes it out: `test_terraform.py` makes them
one at a time.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutation:
    """One default taken out of one file, and what the module's test says then."""

    root: str
    file: str
    was: str
    becomes: str
    says: str
    test: str = "tests/security.tftest.hcl"


MUTATIONS = {
    "IMDSv1 on the head": Mutation(
        "modules/ray",
        "main.tf",
        'http_tokens                 = "required"',
        'http_tokens                 = "optional"',
        "the head answers IMDSv1",
    ),
    "IMDSv1 on workers": Mutation(
        "modules/ray",
        "main.tf",
        """  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  block_device""",
        """  metadata_options {
    http_endpoint = "enabled"
  }

  block_device""",
        "workers answer IMDSv1",
    ),
    "head's disk in the clear": Mutation(
        "modules/ray",
        "main.tf",
        "volume_size           = var.head_volume_gb\n    encrypted             = true",
        "volume_size           = var.head_volume_gb\n    encrypted             = false",
        "the head's disk is not an encrypted gp3",
    ),
    "workers' disks in the clear": Mutation(
        "modules/ray",
        "main.tf",
        "volume_size           = var.worker_volume_gb\n      encrypted             = true",
        "volume_size           = var.worker_volume_gb",
        "a worker's disk is not an encrypted gp3",
    ),
    "role on every bucket": Mutation(
        "modules/ray",
        "iam.tf",
        'Resource = ["${local.s3}${var.buckets.checkpoints}/store/*", "${local.s3}${var.buckets.mlflow}/artifacts/*"]',
        'Resource = ["*"]',
        "nodes may do something else on S3 than on our prefixes",
    ),
    "role with every action": Mutation(
        "modules/ray", "iam.tf", '["ec2:TerminateInstances"]', '["ec2:*"]', "a policy allows actions by a pattern"
    ),
    "any role for a worker": Mutation(
        "modules/ray", "iam.tf", "[aws_iam_role.worker.arn]", '["*"]', "a policy allows an action on every resource"
    ),
    "nodes open to the world": Mutation(
        "modules/ray",
        "main.tf",
        'type              = "ingress"\n  protocol          = "-1"\n  from_port         = 0\n  to_port           = '
        "0\n  self              = true",
        'type              = "ingress"\n  protocol          = "-1"\n  from_port         = 0\n  to_port           = '
        '0\n  cidr_blocks       = ["0.0.0.0/0"]',
        "the nodes take connections from others than themselves",
    ),
    "head without termination protection": Mutation(
        "modules/ray",
        "main.tf",
        "disable_api_termination     = var.protect",
        "",
        "the head can be terminated by a slip",
    ),
    "public head": Mutation(
        "modules/ray",
        "main.tf",
        "associate_public_ip_address = false",
        "associate_public_ip_address = true",
        "the head has a public address",
    ),
    "buckets under S3's own key": Mutation(
        "modules/storage",
        "main.tf",
        'sse_algorithm     = "aws:kms"',
        'sse_algorithm     = "AES256"',
        "not encrypted with the cluster's key",
    ),
    "public access allowed": Mutation(
        "modules/storage",
        "main.tf",
        "restrict_public_buckets = true",
        "restrict_public_buckets = false",
        "a bucket can be made public",
    ),
    "S3 without TLS": Mutation(
        "modules/storage",
        "main.tf",
        '"aws:SecureTransport" = "false"',
        '"aws:SecureTransport" = "true"',
        "a bucket answers without TLS",
    ),
    "no versions": Mutation(
        "modules/storage",
        "main.tf",
        'status = "Enabled"\n  }\n}\n\n# Which',
        'status = "Suspended"\n  }\n}\n\n# Which',
        "keeps no versions",
    ),
    "checkpoints expire by age": Mutation(
        "modules/storage",
        "main.tf",
        "expired_object_delete_marker = true",
        "days = 30",
        "expires or moves objects that are still named",
    ),
    "database in the clear": Mutation(
        "modules/mlflow",
        "main.tf",
        "storage_encrypted     = true",
        "storage_encrypted     = false",
        "not encrypted with the cluster's key",
    ),
    "password in the state": Mutation(
        "modules/mlflow",
        "main.tf",
        "manage_master_user_password   = true",
        'password = "secret"',
        "the password is not RDS's",
    ),
    "database open to the network": Mutation(
        "modules/mlflow",
        "main.tf",
        "source_security_group_id = var.nodes_security_group_id",
        'cidr_blocks              = ["0.0.0.0/0"]',
        "the database is open to more than the nodes",
    ),
    "public subnets": Mutation(
        "modules/network",
        "main.tf",
        "cidr_block              = local.private_cidrs[count.index]\n  map_public_ip_on_launch = false",
        "cidr_block              = local.private_cidrs[count.index]\n  map_public_ip_on_launch = true",
        "a subnet gives machines public addresses",
    ),
}
