# The sizes and kinds a cluster can have, and the files that follow from them.

mock_provider "aws" {
  mock_data "aws_partition" {
    defaults = { partition = "aws" }
  }
  mock_resource "aws_launch_template" {
    defaults = { id = "lt-1", arn = "arn:aws:ec2:us-east-1:123456789012:launch-template/lt-1", latest_version = 7 }
  }
}

variables {
  name                      = "trunk"
  region                    = "us-east-1"
  vpc_id                    = "vpc-1"
  head_subnet_id            = "subnet-1"
  head_private_ip           = "10.20.0.10"
  worker_subnet_ids         = ["subnet-1"]
  worker_availability_zones = ["us-east-1a"]
  kms_key_arn               = "arn:aws:kms:us-east-1:123456789012:key/11111111-2222-3333-4444-555555555555"
  buckets                   = { data = "b-data", checkpoints = "b-checkpoints", mlflow = "b-mlflow" }
  ami_id                    = "ami-0123456789abcdef0"
}

run "the_head_alone" {
  variables {
    head_instance_type = "g6.xlarge"
  }

  assert {
    condition     = length(aws_launch_template.worker) == 0 && length(aws_iam_role_policy.head_autoscaler) == 0 && output.cluster_yaml == null
    error_message = "a head without workers has a template, an autoscaler's rights, or its configuration"
  }

  assert {
    condition     = strcontains(aws_instance.head.user_data, "\nGPUS_PER_NODE=1\n") && strcontains(aws_instance.head.user_data, "\nAUTOSCALING=false\n")
    error_message = "the head does not know that it has a GPU and no autoscaler"
  }
}

run "eight_gpus_with_efa" {
  variables {
    worker_instance_type = "p5.48xlarge"
    max_workers          = 16
    efa                  = true
    placement_group      = true
  }

  assert {
    condition     = length(aws_launch_template.worker[0].network_interfaces) == 32 && alltrue([for interface in aws_launch_template.worker[0].network_interfaces : interface.interface_type == "efa" && interface.subnet_id == "subnet-1"])
    error_message = "a p5 has 32 EFA interfaces in one subnet"
  }

  assert {
    condition     = alltrue([for index, interface in aws_launch_template.worker[0].network_interfaces : interface.network_card_index == index && interface.device_index == min(index, 1)])
    error_message = "an interface is on another card than its own"
  }

  assert {
    condition     = aws_launch_template.worker[0].vpc_security_group_ids == null && alltrue([for interface in aws_launch_template.worker[0].network_interfaces : length(interface.security_groups) == 1])
    error_message = "EC2 refuses security groups beside interfaces; they belong to each interface"
  }

  assert {
    condition     = aws_placement_group.workers[0].strategy == "cluster" && aws_launch_template.worker[0].placement[0].group_name == "trunk-workers"
    error_message = "workers are not placed together"
  }

  assert {
    condition     = yamldecode(output.cluster_yaml).max_workers == 16 && yamldecode(output.cluster_yaml).available_node_types.gpu.resources == { CPU = 192, GPU = 8, "accelerator_type:H100" = 1 }
    error_message = "the autoscaler does not know what a worker has: ${output.cluster_yaml}"
  }

  assert {
    condition     = yamldecode(output.cluster_yaml).available_node_types.gpu.node_config.LaunchTemplate == { LaunchTemplateId = "lt-1", Version = "7" }
    error_message = "the autoscaler starts from another template"
  }

  assert {
    condition     = strcontains(base64decode(aws_launch_template.worker[0].user_data), "\nEFA=true\n") && strcontains(base64decode(aws_launch_template.worker[0].user_data), "\nGPUS_PER_NODE=8\n") && strcontains(base64decode(aws_launch_template.worker[0].user_data), "\nHEAD_ADDRESS=10.20.0.10\n")
    error_message = "workers do not know their EFA, GPUs or head"
  }

  assert {
    condition     = output.usd_per_hour.workers > 800 && output.usd_per_hour.workers < 900
    error_message = "16 p5 cost some 880 USD an hour, not ${output.usd_per_hour.workers}"
  }
}

run "spot" {
  variables {
    worker_instance_type      = "g6.12xlarge"
    max_workers               = 2
    spot                      = true
    worker_subnet_ids         = ["subnet-1", "subnet-2"]
    worker_availability_zones = ["us-east-1a", "us-east-1b"]
  }

  assert {
    condition     = aws_launch_template.worker[0].instance_market_options[0].market_type == "spot" && length(aws_launch_template.worker[0].capacity_reservation_specification) == 0
    error_message = "workers are not on spot"
  }

  assert {
    condition     = yamldecode(output.cluster_yaml).available_node_types.gpu.node_config.SubnetIds == ["subnet-1", "subnet-2"] && length(aws_launch_template.worker[0].network_interfaces) == 0
    error_message = "workers do not start in both zones"
  }
}

run "reservation_as_a_capacity_block" {
  variables {
    worker_instance_type    = "p5.48xlarge"
    max_workers             = 2
    capacity_reservation_id = "cr-0123456789abcdef0"
    capacity_block          = true
  }

  assert {
    condition     = aws_launch_template.worker[0].capacity_reservation_specification[0].capacity_reservation_target[0].capacity_reservation_id == "cr-0123456789abcdef0" && aws_launch_template.worker[0].instance_market_options[0].market_type == "capacity-block"
    error_message = "workers do not start in the capacity block"
  }
}

run "image_and_head_settings" {
  variables {
    image                = "123456789012.dkr.ecr.us-east-1.amazonaws.com/team/trunkline:0.1.0"
    worker_instance_type = "g6.xlarge"
    max_workers          = 1
    node_settings        = { MLFLOW_ARTIFACTS_URI = "s3://b-mlflow/artifacts" }
  }

  assert {
    condition     = [for statement in jsondecode(aws_iam_role_policy.worker_node.policy).Statement : reverse(split(":", statement.Resource[0]))[0] if statement.Sid == "PullImage"] == ["repository/team/trunkline"]
    error_message = "nodes may pull other images, or not this one"
  }

  assert {
    condition     = strcontains(aws_instance.head.user_data, "\nMLFLOW_ARTIFACTS_URI=s3://b-mlflow/artifacts\n") && strcontains(aws_instance.head.user_data, "\nIMAGE=123456789012.dkr.ecr.us-east-1.amazonaws.com/team/trunkline:0.1.0\n")
    error_message = "the head does not know its image or MLflow's settings"
  }
}

run "unprotected_to_be_torn_down" {
  variables {
    protect = false
  }

  assert {
    condition     = aws_instance.head.disable_api_termination == false && aws_secretsmanager_secret.ray.recovery_window_in_days == 0
    error_message = "protect = false leaves the head or the secret's name"
  }
}
