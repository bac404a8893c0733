# A head that is always on, and GPU machines that come when a job asks for them and go when none does.

locals {
  project = "${path.module}/../../../.."
}

module "network" {
  source = "../../modules/network"

  name               = var.name
  region             = var.region
  availability_zones = [for zone in var.zones : "${var.region}${zone}"]
  cidr               = var.cidr
}

module "storage" {
  source = "../../modules/storage"

  name    = var.name
  protect = var.protect

  bootstrap_files = {
    "node.sh"           = "${path.module}/../../modules/ray/templates/node.sh"
    "head.sh"           = "${path.module}/../../modules/ray/templates/head.sh"
    "worker.sh"         = "${path.module}/../../modules/ray/templates/worker.sh"
    "mlflow_server.sh"  = "${path.module}/../../modules/mlflow/templates/server.sh"
    "requirements.lock" = "${local.project}/requirements.lock"
  }
}

module "ray" {
  source = "../../modules/ray"

  name            = var.name
  region          = var.region
  vpc_id          = module.network.vpc_id
  head_subnet_id  = module.network.private_subnet_ids[0]
  head_private_ip = module.network.head_private_ip
  # without EFA and placement group a worker may start in any zone that has one
  worker_subnet_ids         = slice(module.network.private_subnet_ids, 0, local.worker_zones)
  worker_availability_zones = slice(module.network.availability_zones, 0, local.worker_zones)
  kms_key_arn               = module.storage.kms_key_arn
  node_settings             = module.mlflow.node_settings
  ami_id                    = var.ami_id
  image                     = var.image
  head_instance_type        = var.head_instance_type
  worker_instance_type      = var.worker_instance_type
  min_workers               = var.min_workers
  max_workers               = var.max_workers
  idle_timeout_minutes      = var.idle_timeout_minutes
  spot                      = var.spot
  capacity_reservation_id   = var.capacity_reservation_id
  capacity_block            = var.capacity_block
  efa                       = var.efa
  placement_group           = var.placement_group
  protect                   = var.protect

  buckets = {
    data        = module.storage.data_bucket
    checkpoints = module.storage.checkpoints_bucket
    mlflow      = module.storage.mlflow_bucket
  }
}

locals {
  # a reservation, EFA and a placement group each lie in one zone, the first
  worker_zones = var.efa || var.placement_group || var.capacity_reservation_id != null ? 1 : length(var.zones)
}

# Beside the other bootstrap files, but made from the launch template. The head fetches it again when it changes: another
# max_workers needs no restart.
resource "aws_s3_object" "cluster_yaml" {
  bucket  = module.storage.data_bucket
  key     = "bootstrap/cluster.yaml"
  content = module.ray.cluster_yaml
}

module "mlflow" {
  source = "../../modules/mlflow"

  name                    = var.name
  region                  = var.region
  vpc_id                  = module.network.vpc_id
  subnet_ids              = module.network.private_subnet_ids
  nodes_security_group_id = module.ray.security_group_id
  server_role_name        = module.ray.head_role_name
  artifacts_uri           = module.storage.mlflow_artifacts_uri
  kms_key_arn             = module.storage.kms_key_arn
  database                = var.database
  protect                 = var.protect
}

module "budget" {
  source = "../../modules/budget"

  name        = var.name
  monthly_usd = var.monthly_budget_usd
  emails      = var.alert_emails
}
