# Ray on EC2: a head that stays, and GPU workers that the autoscaler on it starts from a launch template when a job asks for GPUs
# and ends when none does. Nodes boot by themselves from user data; there is no SSH.

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

data "aws_ssm_parameter" "ami" {
  count = var.ami_id == null ? 1 : 0

  name = var.ami_parameter
}

locals {
  tags = merge(var.tags, { trunkline = var.name })
  # the parameter's value counts as secret for Terraform; an image id is none
  ami_id    = var.ami_id != null ? var.ami_id : nonsensitive(one(data.aws_ssm_parameter.ami[*].value))
  head_gpus = try(local.gpu_instances[var.head_instance_type].gpus, 0)
  placed    = var.placement_group && local.worker != null

  # /etc/trunkline/node.env; the head's IP is fixed so that workers need not wait for Terraform to learn it
  node_settings = {
    NAME         = var.name
    REGION       = var.region
    BUCKET       = var.buckets.data
    SECRET_ARN   = aws_secretsmanager_secret.ray.arn
    HEAD_ADDRESS = var.head_private_ip
    STORE_URI    = "s3://${var.buckets.checkpoints}/store"
    TRACKING_URI = "http://${var.head_private_ip}:5000"
    # jobs name secrets, and read them under this prefix of Secrets Manager
    TRUNKLINE_SECRETS_PREFIX = "${var.name}/jobs/"
    IMAGE                    = var.image == null ? "" : var.image
    PYTHON                   = var.python
  }
  head_settings = merge(local.node_settings, {
    GPUS_PER_NODE = tostring(local.head_gpus)
    EFA           = "false"
    AUTOSCALING   = tostring(local.worker != null)
  }, var.node_settings)
  worker_settings = merge(local.node_settings, {
    GPUS_PER_NODE = tostring(try(local.worker.gpus, 0))
    EFA           = tostring(var.efa)
    AUTOSCALING   = "false"
  })

  cluster_yaml = local.worker == null ? null : templatefile("${path.module}/templates/cluster.yaml.tftpl", {
    name                    = var.name
    region                  = var.region
    availability_zones      = var.worker_availability_zones
    subnet_ids              = var.worker_subnet_ids
    launch_template_id      = one(aws_launch_template.worker[*].id)
    launch_template_version = tostring(one(aws_launch_template.worker[*].latest_version))
    instance_type           = var.worker_instance_type
    worker_cpus             = local.worker.cpus
    worker_gpus             = local.worker.gpus
    accelerator             = local.worker.accelerator
    min_workers             = var.min_workers
    max_workers             = var.max_workers
    idle_timeout_minutes    = var.idle_timeout_minutes
    spot                    = var.spot
    # with EFA the template's network interfaces name the subnet, and EC2 refuses a second subnet in the request
    efa  = var.efa
    tags = local.tags
  })
}

# The head writes a token and a certificate authority into it on its first boot, so that neither Terraform's state nor user data
# ever holds them.
resource "aws_secretsmanager_secret" "ray" {
  name                    = "${var.name}/ray"
  description             = "Ray's token and certificate authority; written by the head"
  kms_key_id              = var.kms_key_arn
  recovery_window_in_days = var.protect ? 7 : 0
  tags                    = local.tags
}

resource "aws_security_group" "nodes" {
  name        = "${var.name}-nodes"
  description = "Head and workers: everything among themselves, TLS to outside, nothing from outside"
  vpc_id      = var.vpc_id
  tags        = merge(local.tags, { Name = "${var.name}-nodes" })
}

# Ray, NCCL and EFA choose ports as they like; EFA also needs the group named in both directions.
resource "aws_security_group_rule" "from_nodes" {
  security_group_id = aws_security_group.nodes.id
  description       = "nodes to nodes"
  type              = "ingress"
  protocol          = "-1"
  from_port         = 0
  to_port           = 0
  self              = true
}

resource "aws_security_group_rule" "to_nodes" {
  security_group_id = aws_security_group.nodes.id
  description       = "nodes to nodes"
  type              = "egress"
  protocol          = "-1"
  from_port         = 0
  to_port           = 0
  self              = true
}

resource "aws_security_group_rule" "to_outside" {
  security_group_id = aws_security_group.nodes.id
  description       = "AWS, package registries and public datasets, over TLS"
  type              = "egress"
  protocol          = "tcp"
  from_port         = 443
  to_port           = 443
  cidr_blocks       = ["0.0.0.0/0"]
}

resource "aws_instance" "head" {
  ami                         = local.ami_id
  instance_type               = var.head_instance_type
  subnet_id                   = var.head_subnet_id
  private_ip                  = var.head_private_ip
  associate_public_ip_address = false
  vpc_security_group_ids      = [aws_security_group.nodes.id]
  iam_instance_profile        = aws_iam_instance_profile.head.name
  disable_api_termination     = var.protect
  ebs_optimized               = true

  user_data = templatefile("${path.module}/templates/user_data.sh.tftpl", { role = "head", settings = local.head_settings })

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  root_block_device {
    volume_type           = "gp3"
    volume_size           = var.head_volume_gb
    encrypted             = true
    delete_on_termination = true
  }

  # the ray-* tags are how Ray's AWS provider knows the head from the workers
  tags = merge(local.tags, {
    Name               = "${var.name}-head"
    ray-cluster-name   = var.name
    ray-node-type      = "head"
    ray-user-node-type = "head"
  })

  volume_tags = merge(local.tags, { Name = "${var.name}-head" })

  lifecycle {
    # a newer image would replace the head, and with it the jobs that run: taint it when you want that
    ignore_changes = [ami]
  }

  depends_on = [
    aws_iam_role_policy.head_node,
    aws_iam_role_policy.head_autoscaler,
    aws_security_group_rule.to_nodes,
    aws_security_group_rule.to_outside,
  ]
}

resource "aws_placement_group" "workers" {
  count = local.placed ? 1 : 0

  name     = "${var.name}-workers"
  strategy = "cluster"
  tags     = local.tags
}

resource "aws_launch_template" "worker" {
  count = local.worker == null ? 0 : 1

  name                                 = "${var.name}-worker"
  description                          = "GPU worker of ${var.name}; the autoscaler on the head starts it"
  image_id                             = local.ami_id
  instance_type                        = var.worker_instance_type
  instance_initiated_shutdown_behavior = "terminate" # a worker that finds its GPU broken shuts down, and is gone
  update_default_version               = true
  ebs_optimized                        = true

  # the subnets give no public address; with EFA the interfaces below take the group and the subnet instead
  vpc_security_group_ids = var.efa ? null : [aws_security_group.nodes.id]

  user_data = base64encode(templatefile("${path.module}/templates/user_data.sh.tftpl", { role = "worker", settings = local.worker_settings }))

  iam_instance_profile {
    arn = aws_iam_instance_profile.worker.arn
  }

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  block_device_mappings {
    device_name = var.root_device_name

    ebs {
      volume_type           = "gp3"
      volume_size           = var.worker_volume_gb
      encrypted             = true
      delete_on_termination = true
    }
  }

  dynamic "network_interfaces" {
    for_each = var.efa ? range(local.worker.efa) : []

    content {
      network_card_index    = network_interfaces.value
      device_index          = network_interfaces.value == 0 ? 0 : 1
      interface_type        = "efa"
      subnet_id             = var.worker_subnet_ids[0]
      security_groups       = [aws_security_group.nodes.id]
      delete_on_termination = true
    }
  }

  dynamic "placement" {
    for_each = local.placed ? [1] : []

    content {
      group_name = aws_placement_group.workers[0].name
    }
  }

  dynamic "instance_market_options" {
    for_each = var.spot ? ["spot"] : var.capacity_block ? ["capacity-block"] : []

    content {
      market_type = instance_market_options.value
    }
  }

  dynamic "capacity_reservation_specification" {
    for_each = var.capacity_reservation_id == null ? [] : [var.capacity_reservation_id]

    content {
      capacity_reservation_target {
        capacity_reservation_id = capacity_reservation_specification.value
      }
    }
  }

  dynamic "tag_specifications" {
    for_each = ["instance", "volume"]

    content {
      resource_type = tag_specifications.value
      tags          = merge(local.tags, { Name = "${var.name}-worker" })
    }
  }

  tags = local.tags
}
